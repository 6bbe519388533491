  ;; The limit of a hit where no refusal is learned from (`learn_from_refusals: false`): the module is still called for the
  ;; response, since one module serves every configuration, but reads nothing of it.

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $count)
    (call $add_identity)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
