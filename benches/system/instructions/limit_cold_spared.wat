  ;; The same as limit_cold_whole.wat without the calls that the module spares: counters are told, and the number of ends, what
  ;; was told of users and the sizes of the tables read, with the worker's timer; who asks repeats a call that fails by itself;
  ;; what is written, and that the other table has nothing, goes by the look before the question; and the lease is left to run
  ;; out.

  ;; The answer is kept where nobody looks, so that no token is known.
  (data (i32.const 2016) "hand-written.answer.12345")
  (data (i32.const 2048) "hand-written.active.12345")
  (data (i32.const 2080) "hand-written.inactive.123")
  (data (i32.const 2112) "hand-written.lease.123456")
  (data (i32.const 2144) "mas")
  (data (i32.const 2176) "token=")
  (data (i32.const 2223) "&token_type_hint=access_token")
  (data (i32.const 2272) "hand-written.ends.1234567")
  (data (i32.const 2336) "hand-written.sizes.123456")
  (data (i32.const 2368) "hand_written_milliseconds")
  ;; Proxy-Wasm's form of a map: the number of pairs, the two lengths of each, and then each text with a zero byte.
  (data (i32.const 2560)
    "\08\00\00\00"
    "\07\00\00\00\04\00\00\00"
    "\0a\00\00\00\10\00\00\00"
    "\05\00\00\00\12\00\00\00"
    "\06\00\00\00\10\00\00\00"
    "\0c\00\00\00\21\00\00\00"
    "\18\00\00\00\01\00\00\00"
    "\0d\00\00\00\0c\00\00\00"
    "\0c\00\00\00\24\00\00\00"
    ":method\00POST\00"
    ":authority\00auth.example.org\00"
    ":path\00/oauth2/introspect\00"
    "accept\00application/json\00"
    "content-type\00application/x-www-form-urlencoded\00"
    "x-mas-supports-device-id\001\00"
    "authorization\00Bearer bench\00"
    "x-request-id\000b8e2f0e-9d4c-4f2b-8a55-1c2d3e4f5a6b\00")

  (global $histogram (mut i32) (i32.const 0))
  (global $is_ready (mut i32) (i32.const 0))
  (global $waiting (mut i32) (i32.const 0))

  ;; Once: the histogram is defined, and the table's mark is an empty value.
  (func $prepare
    (drop (call $define_metric (i32.const 2) (i32.const 2368) (i32.const 25) (global.get $metric_id)))
    (global.set $histogram (i32.load (global.get $metric_id)))
    (call $keep (i32.const 2336) (i32.const 0))
    (global.set $is_ready (i32.const 1)))

  (func $look_up (param $key i32)
    (drop (call $read_shared
      (local.get $key) (i32.const 25) (global.get $address) (global.get $length) (global.get $metric_id))))
  (func $keep (param $key i32) (param $bytes i32)
    (drop (call $write_shared (local.get $key) (i32.const 25) (i32.const 4096) (local.get $bytes) (i32.const 0))))
  (func $read_time
    (drop (call $read_clock (i32.const 1) (i64.const 0) (i32.const 32))))
  (func $sample
    (drop (call $record_metric (global.get $histogram) (i64.const 3))))

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
    (if (i32.eqz (global.get $is_ready)) (then (call $prepare)))
    (call $read_request)
    (call $write_form)
    ;; The moment before the question: answers and leases end by it.
    (call $read_time)
    ;; Both tables. A metric of each look is told with the worker's timer, which no request pays.
    (call $look_up (i32.const 2048))
    (call $look_up (i32.const 2080))
    ;; The lease: of all workers one asks.
    (call $look_up (i32.const 2112))
    (call $keep (i32.const 2112) (i32.const 60))
    ;; The number of ends so far was read with the worker's timer.
    ;; The root asks, which outlives the client.
    (drop (call $select (i32.const 1)))
    (drop (call $ask
      (i32.const 2144) (i32.const 3)
      (i32.const 2560) (i32.const 309)
      (i32.const 2176) (i32.const 76)
      (i32.const 0) (i32.const 0)
      (i32.const 5000) (global.get $metric_id)))
    (global.set $waiting (local.get $stream))
    ;; 1 holds the request.
    (i32.const 1))
  ;; An answer belongs to no request, so the module must know which one waits.
  (func (export "proxy_on_http_call_response")
    (param $root i32) (param $call i32) (param $headers i32) (param $bytes i32) (param $trailers i32)
    ;; Map 6 holds the headers of the answer: its status, its type and the token's lifetime.
    (drop (call $get_headers (i32.const 6) (global.get $address) (global.get $length)))
    ;; Buffer 4 is its body.
    (drop (call $get_body (i32.const 4) (i32.const 0) (local.get $bytes) (global.get $address) (global.get $length)))
    ;; The moment after the answer, how long it took, and what it was.
    (call $read_time)
    (call $sample)
    ;; Whether the user's sessions have ended was read with the worker's timer.
    ;; The answer is written into what else was in its bucket before the question. The other table had none then, and no other
    ;; worker has asked since.
    (call $keep (i32.const 2016) (i32.const 480))
    ;; The token's ends since the question.
    (call $look_up (i32.const 2272))
    ;; The lease runs out by itself: another worker that waits would have told.
    ;; The request goes on, with how long it was held and whose it is.
    (drop (call $select (global.get $waiting)))
    (call $sample)
    (call $add_identity)
    ;; 0 is the request.
    (drop (call $resume (i32.const 0))))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $read_status)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
