  ;; The floor of a hit: the fewest calls with which a filter can know who sends a request and say so. All headers are read
  ;; at once, one counter is counted, two headers are added that are known to be absent. It holds nothing of a request, so
  ;; it need not hear when one ends, and it does not look at the response.

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $count)
    (call $add_identity)
    (i32.const 0))
