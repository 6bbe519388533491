  ;; The limit of a token that nobody has seen, active: both tables are looked into, a lease is taken so that no other
  ;; worker asks too, MAS is asked, its answer is read and kept, and the request goes on with its identity.

  ;; The answer is kept where nobody looks, so that no token is known.
  (data (i32.const 2016) "hand-written.answer.12345")
  (data (i32.const 2048) "hand-written.active.12345")
  (data (i32.const 2080) "hand-written.inactive.123")
  (data (i32.const 2112) "hand-written.lease.123456")
  (data (i32.const 2144) "mas")
  (data (i32.const 2176) "token=")
  (data (i32.const 2223) "&token_type_hint=access_token")
  ;; Proxy-Wasm's form of a map: the number of pairs, the two lengths of each, and then each text with a zero byte.
  (data (i32.const 2304)
    "\06\00\00\00"
    "\07\00\00\00\04\00\00\00"
    "\05\00\00\00\12\00\00\00"
    "\0a\00\00\00\10\00\00\00"
    "\0d\00\00\00\0c\00\00\00"
    "\06\00\00\00\10\00\00\00"
    "\0c\00\00\00\21\00\00\00"
    ":method\00POST\00"
    ":path\00/oauth2/introspect\00"
    ":authority\00auth.example.org\00"
    "authorization\00Bearer bench\00"
    "accept\00application/json\00"
    "content-type\00application/x-www-form-urlencoded\00")

  (global $waiting (mut i32) (i32.const 0))

  (func $look_up (param $key i32)
    (drop (call $read_shared
      (local.get $key) (i32.const 25) (global.get $address) (global.get $length) (global.get $metric_id))))
  (func $keep (param $key i32) (param $bytes i32)
    (drop (call $write_shared (local.get $key) (i32.const 25) (i32.const 4096) (local.get $bytes) (i32.const 0))))

  ;; Copies the token into the form: it begins with "mat_" and has 41 bytes.
  (func $write_form (local $at i32)
    (local.set $at (i32.load (global.get $address)))
    (block $found
      (loop $next
        (br_if $found (i32.eq (i32.load (local.get $at)) (i32.const 0x5f74616d)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (memory.copy (i32.const 2182) (local.get $at) (i32.const 41)))

  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (call $read_request)
    (call $write_form)
    (call $look_up (i32.const 2048))
    (call $look_up (i32.const 2080))
    (call $look_up (i32.const 2112))
    (call $keep (i32.const 2112) (i32.const 32))
    (drop (call $ask
      (i32.const 2144) (i32.const 3)
      (i32.const 2304) (i32.const 216)
      (i32.const 2176) (i32.const 76)
      (i32.const 0) (i32.const 0)
      (i32.const 5000) (global.get $metric_id)))
    (global.set $waiting (local.get $stream))
    ;; 1 holds the request.
    (i32.const 1))
  ;; An answer belongs to no request, so the module must know which one waits.
  (func (export "proxy_on_http_call_response")
    (param $root i32) (param $call i32) (param $headers i32) (param $bytes i32) (param $trailers i32)
    ;; Buffer 4 is the body of the answer.
    (drop (call $get_body (i32.const 4) (i32.const 0) (local.get $bytes) (global.get $address) (global.get $length)))
    (call $keep (i32.const 2016) (i32.const 480))
    (drop (call $select (global.get $waiting)))
    (call $count)
    (call $add_identity)
    ;; 0 is the request.
    (drop (call $resume (i32.const 0))))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $read_status)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
