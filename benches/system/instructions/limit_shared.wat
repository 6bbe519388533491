  ;; The limit of a hit in the shared cache: that of a hit, and one reading of a record of shared data. The record is as
  ;; long as a bucket with one session in it, and is written at the start.

  (data (i32.const 2048) "hand-written.bucket.12345")
  (func $fill
    (drop (call $write_shared (i32.const 2048) (i32.const 25) (i32.const 4096) (i32.const 480) (i32.const 0))))
  (global $is_filled (mut i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $forget)
    (if (i32.eqz (global.get $is_filled))
      (then (call $fill) (global.set $is_filled (i32.const 1))))
    (call $read_request)
    (drop (call $read_shared
      (i32.const 2048) (i32.const 25) (global.get $address) (global.get $length) (global.get $metric_id)))
    (call $count)
    (call $add_identity)
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $stream i32) (param $number i32) (param $last i32) (result i32)
    (call $read_status)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $stream i32))
