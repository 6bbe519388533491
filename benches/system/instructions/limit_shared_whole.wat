  ;; The limit of a hit in the shared cache with all that the module promises: that of such a hit, the user's record, which
  ;; tells whether sessions of the user have ended since MAS was asked, and a metric of the look.

  (data (i32.const 2048) "hand-written.bucket.12345")
  (data (i32.const 2080) "hand-written.user.1234567")
  (func $look_up (param $key i32)
    (drop (call $read_shared
      (local.get $key) (i32.const 25) (global.get $address) (global.get $length) (global.get $metric_id))))
  (func $fill
    (drop (call $write_shared (i32.const 2048) (i32.const 25) (i32.const 4096) (i32.const 480) (i32.const 0))))
  (global $is_filled (mut i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (if (i32.eqz (global.get $is_filled))
      (then (call $fill) (global.set $is_filled (i32.const 1))))
    (call $read_request)
    ;; The moment by which the answer holds.
    (drop (call $read_clock (i32.const 1) (i64.const 0) (i32.const 32)))
    (call $look_up (i32.const 2048))
    (call $count)
    (call $look_up (i32.const 2080))
    (call $count)
    (call $add_identity)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $read_status)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
