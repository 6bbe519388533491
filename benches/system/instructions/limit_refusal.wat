  ;; The limit of a refusal: the headers are read at once, one counter is counted, and the request is answered with the
  ;; module's own 401: its headers, its body, and the reason that stands in the access log. Envoy calls a filter for the
  ;; response that the filter itself made, and tells it when the request ends.

  (data (i32.const 2048) "{\"errcode\":\"M_UNKNOWN_TOKEN\",\"error\":\"Token is not active\",\"soft_logout\":false}")
  (data (i32.const 2176) "matrix_edge_auth_unknown_token")
  ;; Proxy-Wasm's form of a map: the number of pairs, the two lengths of each, and then each text with a zero byte.
  (data (i32.const 2304)
    "\06\00\00\00"
    "\0c\00\00\00\10\00\00\00"
    "\0d\00\00\00\23\00\00\00"
    "\1b\00\00\00\01\00\00\00"
    "\1c\00\00\00\25\00\00\00"
    "\1c\00\00\00\33\00\00\00"
    "\1d\00\00\00\18\00\00\00"
    "content-type\00application/json\00"
    "cache-control\00no-cache, no-store, must-revalidate\00"
    "access-control-allow-origin\00*\00"
    "access-control-allow-methods\00GET, HEAD, POST, PUT, DELETE, OPTIONS\00"
    "access-control-allow-headers\00X-Requested-With, Content-Type, Authorization, Date\00"
    "access-control-expose-headers\00Synapse-Trace-Id, Server\00")

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $count)
    ;; No gRPC status. 1 stops the request here.
    (drop (call $answer
      (i32.const 401)
      (i32.const 2176) (i32.const 30)
      (i32.const 2048) (i32.const 79)
      (i32.const 2304) (i32.const 365)
      (i32.const -1)))
    (i32.const 1))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
