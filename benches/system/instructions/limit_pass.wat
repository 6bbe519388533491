  ;; The limit of a request that passes without a question: the headers are read at once, to know its path and that it
  ;; brings no identity of its own, and one counter is counted.

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $count)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
