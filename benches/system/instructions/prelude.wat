  ;; What all modules of this folder begin with. Proxy-Wasm ABI 0.2.1; the results of the host's functions are statuses, and
  ;; 0 is "ok". Nothing here reads a status: what these modules are for is what the calls cost.

  (import "env" "proxy_get_header_map_pairs" (func $get_headers (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
  (import "env" "proxy_get_shared_data" (func $read_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $write_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_http_call"
    (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $get_body (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $select (param i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $resume (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $read_clock (param i32 i64 i32) (result i32)))

  (memory (export "memory") 4)

  ;; Where the host leaves an address, a length and the number of a metric.
  (global $address i32 (i32.const 16))
  (global $length i32 (i32.const 20))
  (global $metric_id i32 (i32.const 24))
  (data (i32.const 1024) "x-matrix-user-id")
  (data (i32.const 1056) "@somebody:example.org")
  (data (i32.const 1088) "x-matrix-device-id")
  (data (i32.const 1120) "AABBCCDDEE")
  (data (i32.const 1152) "hand_written_requests_total")
  (data (i32.const 1184) ":status")

  ;; What the host hands over lies from 64 KiB on, and the next request writes over it.
  (global $free (mut i32) (i32.const 65536))
  (func $forget (global.set $free (i32.const 65536)))
  (func (export "proxy_on_memory_allocate") (param $bytes i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.add (global.get $free) (i32.and (i32.add (local.get $bytes) (i32.const 15)) (i32.const -16)))))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param $context i32) (param $root i32))
  (func (export "proxy_on_vm_start") (param $context i32) (param $bytes i32) (result i32) (i32.const 1))
  (global $metric (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param $context i32) (param $bytes i32) (result i32)
    (drop (call $define_metric (i32.const 0) (i32.const 1152) (i32.const 27) (global.get $metric_id)))
    (global.set $metric (i32.load (global.get $metric_id)))
    (i32.const 1))

  ;; The steps of the modules. Map 0 holds the request's headers, map 2 those of the response.
  (func $read_request
    (drop (call $get_headers (i32.const 0) (global.get $address) (global.get $length))))
  (func $count
    (drop (call $increment (global.get $metric) (i64.const 1))))
  (func $add_identity
    (drop (call $add_header (i32.const 0) (i32.const 1024) (i32.const 16) (i32.const 1056) (i32.const 21)))
    (drop (call $add_header (i32.const 0) (i32.const 1088) (i32.const 18) (i32.const 1120) (i32.const 10))))
  (func $read_status
    (drop (call $get_header (i32.const 2) (i32.const 1184) (i32.const 7) (global.get $address) (global.get $length))))
