  ;; The limit of a hit: the floor, and what the gateway cannot do without. It reads the status of every response, since a
  ;; 401 of the homeserver makes it ask again, and it is told when a request ends.

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $count)
    (call $add_identity)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $read_status)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
