//! The proxy-wasm host calls, ABI 0.2.1, with every status handed back.
//!
//! The SDK's wrappers panic on a status they do not expect, and a panic kills the worker's VM. They also cannot tell an
//! empty header from an absent one.

#![expect(unsafe_code, reason = "host calls are foreign functions")]

use alloc::vec::Vec;
use core::ptr;

use crate::host::HostError;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const EMPTY: u32 = 7;

/// `proxy_http_call`: there is no such cluster. Also where a pseudo-header is missing.
pub(super) const BAD_ARGUMENT: u32 = 2;

/// `proxy_set_shared_data`: the value changed in between.
pub(super) const CAS_MISMATCH: u32 = 8;

/// Header maps.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Map {
    Request = 0,
    RequestTrailers = 1,
    Response = 2,
    CallResponse = 6,
}

/// Buffers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Buffer {
    RequestBody = 0,
    CallResponseBody = 4,
    PluginConfiguration = 7,
}

/// Metric types.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum MetricType {
    Counter = 0,
    Histogram = 2,
}

const HTTP_REQUEST_STREAM: u32 = 0;
const NO_GRPC_STATUS: i32 = -1;

/// A map without a pair, serialized: their number.
const NO_PAIRS: [u8; 4] = [0; 4];

// The compiler calls functions of the C library by itself, such as `memcmp`.
#[link(name = "c", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, pairs_size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(id: u32, message: *const u8, message_size: usize) -> u32;
    fn proxy_dequeue_shared_queue(id: u32, message: *mut *mut u8, message_size: *mut usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout_millis: u32,
        call: *mut u32,
    ) -> u32;
    fn proxy_log(level: u32, message: *const u8, message_size: usize) -> u32;
    fn proxy_continue_stream(stream_type: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
}

fn done(status: u32) -> Result<(), HostError> {
    if status == OK {
        Ok(())
    } else {
        Err(HostError(status))
    }
}

/// What the host hands over: it allocated the bytes in this VM by `proxy_on_memory_allocate`.
struct Handed {
    data: *mut u8,
    size: usize,
}

impl Handed {
    const fn nothing() -> Self {
        Self {
            data: ptr::null_mut(),
            size: 0,
        }
    }

    /// The bytes after a call that returned `status`; `None` if the host found nothing.
    #[inline]
    fn take(self, status: u32) -> Result<Option<Vec<u8>>, HostError> {
        match status {
            OK if self.data.is_null() => Ok(Some(Vec::new())),
            // SAFETY: on success the host has written `size` bytes to memory it got from
            // `proxy_on_memory_allocate(size)`, from the global allocator.
            OK => Ok(Some(unsafe {
                Vec::from_raw_parts(self.data, self.size, self.size)
            })),
            NOT_FOUND | EMPTY => Ok(None),
            status => Err(HostError(status)),
        }
    }
}

/// All fields of a map, [serialized](crate::host::Fields::parse). Envoy sets no bound of its own to them: it has let
/// them in.
#[inline]
pub(super) fn header_map(map: Map) -> Result<Vec<u8>, HostError> {
    let mut handed = Handed::nothing();
    // SAFETY: both pointers are to live memory.
    let status = unsafe {
        proxy_get_header_map_pairs(map as u32, &raw mut handed.data, &raw mut handed.size)
    };
    Ok(handed.take(status)?.unwrap_or_default())
}

/// The first value of a header; `None` if absent.
pub(super) fn header(map: Map, name: &str) -> Result<Option<Vec<u8>>, HostError> {
    let mut handed = Handed::nothing();
    // SAFETY: all pointers are to live memory of the sizes given.
    let status = unsafe {
        proxy_get_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            &raw mut handed.data,
            &raw mut handed.size,
        )
    };
    handed.take(status)
}

/// Adds a field to a map.
pub(super) fn add_header(map: Map, name: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe {
        proxy_add_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Sets a header, replacing every field of that name.
pub(super) fn set_header(map: Map, name: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe {
        proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Removes every field of that name.
pub(super) fn remove_header(map: Map, name: &str) -> Result<(), HostError> {
    // SAFETY: the pointer is to live memory of the size given.
    done(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// As much as `max_size` bytes of a buffer, from `start` on; `None` if there is none.
pub(super) fn buffer(
    buffer: Buffer,
    start: usize,
    max_size: usize,
) -> Result<Option<Vec<u8>>, HostError> {
    let mut handed = Handed::nothing();
    // SAFETY: both pointers are to live memory.
    let status = unsafe {
        proxy_get_buffer_bytes(
            buffer as u32,
            start,
            max_size,
            &raw mut handed.data,
            &raw mut handed.size,
        )
    };
    handed.take(status)
}

/// A shared value and its CAS number; `None` if the key was never written.
pub(super) fn shared_data(key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, HostError> {
    let mut handed = Handed::nothing();
    let mut cas = 0;
    // SAFETY: all pointers are to live memory of the sizes given.
    let status = unsafe {
        proxy_get_shared_data(
            key.as_ptr(),
            key.len(),
            &raw mut handed.data,
            &raw mut handed.size,
            &raw mut cas,
        )
    };
    Ok(handed.take(status)?.map(|value| (value, cas)))
}

/// Writes a shared value if its CAS number is still `cas`. An absent key takes any number; 0 always
/// writes.
pub(super) fn set_shared_data(key: &[u8], value: &[u8], cas: u32) -> Result<(), HostError> {
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe {
        proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
    })
}

/// Sets a property of the stream: filter state `wasm.<name>`.
pub(super) fn set_property(name: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// An attribute of the stream; the parts of `path` are separated by zero bytes.
pub(super) fn property(path: &str) -> Result<Option<Vec<u8>>, HostError> {
    let mut handed = Handed::nothing();
    // SAFETY: all pointers are to live memory of the sizes given.
    let status = unsafe {
        proxy_get_property(
            path.as_ptr(),
            path.len(),
            &raw mut handed.data,
            &raw mut handed.size,
        )
    };
    handed.take(status)
}

/// Registers a shared queue for the effective context's root, or finds it and takes it over.
pub(super) fn register_shared_queue(name: &str) -> Result<u32, HostError> {
    let mut id = 0;
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Adds a message to a shared queue.
pub(super) fn enqueue_shared_queue(id: u32, message: &[u8]) -> Result<(), HostError> {
    // SAFETY: the pointer is to live memory of the size given.
    done(unsafe { proxy_enqueue_shared_queue(id, message.as_ptr(), message.len()) })
}

/// The next message of a shared queue; `None` if it is empty.
pub(super) fn dequeue_shared_queue(id: u32) -> Result<Option<Vec<u8>>, HostError> {
    let mut handed = Handed::nothing();
    // SAFETY: both pointers are to live memory.
    let status =
        unsafe { proxy_dequeue_shared_queue(id, &raw mut handed.data, &raw mut handed.size) };
    handed.take(status)
}

/// Answers the request of the effective context. `headers` are serialized. An access log shows `details` as
/// `%RESPONSE_CODE_DETAILS%`.
pub(super) fn send_local_response(
    status: u16,
    details: &str,
    headers: &[u8],
    body: &[u8],
) -> Result<(), HostError> {
    // SAFETY: all pointers are to live memory of the sizes given.
    done(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        )
    })
}

/// Makes a call of the effective context, which must be a root: the answer comes to it. `headers` are serialized. Returns
/// the call's number.
pub(super) fn http_call(
    cluster: &str,
    headers: &[u8],
    body: &[u8],
    timeout_millis: u32,
) -> Result<u32, HostError> {
    let mut call = 0;
    // SAFETY: all pointers are to live memory of the sizes given.
    done(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            NO_PAIRS.as_ptr(),
            NO_PAIRS.len(),
            timeout_millis,
            &raw mut call,
        )
    })?;
    Ok(call)
}

/// Writes a line into Envoy's log. A line that Envoy refuses is lost.
pub(super) fn log(level: u32, message: &str) {
    // SAFETY: the pointer is to live memory of the size given.
    unsafe { proxy_log(level, message.as_ptr(), message.len()) };
}

/// Lets the held request of the effective context go on.
pub(super) fn continue_request() -> Result<(), HostError> {
    // SAFETY: takes no pointers.
    done(unsafe { proxy_continue_stream(HTTP_REQUEST_STREAM) })
}

/// Makes later calls act on `context`; an error means it has gone.
pub(super) fn set_effective_context(context: u32) -> Result<(), HostError> {
    // SAFETY: takes no pointers.
    done(unsafe { proxy_set_effective_context(context) })
}

/// Sets the timer of the effective context's root; 0 stops it.
pub(super) fn set_tick_period(millis: u32) -> Result<(), HostError> {
    // SAFETY: takes no pointers.
    done(unsafe { proxy_set_tick_period_milliseconds(millis) })
}

/// Defines a metric, or finds the one of that name.
pub(super) fn define_metric(kind: MetricType, name: &str) -> Result<u32, HostError> {
    let mut id = 0;
    // SAFETY: both pointers are to live memory of the sizes given.
    done(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Adds to a counter or gauge.
pub(super) fn increment_metric(id: u32, offset: u64) -> Result<(), HostError> {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    // SAFETY: takes no pointers.
    done(unsafe { proxy_increment_metric(id, offset) })
}

/// Adds a sample to a histogram.
pub(super) fn record_metric(id: u32, value: u64) -> Result<(), HostError> {
    // SAFETY: takes no pointers.
    done(unsafe { proxy_record_metric(id, value) })
}
