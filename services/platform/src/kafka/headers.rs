//! The headers of a record that was read.
//!
//! The one place that goes past rdkafka to librdkafka, and so the one with `unsafe`: rdkafka hands out names as `&str`
//! and panics at one that is no UTF-8. Anybody who may write to a topic can send such a name, and each who reads it
//! would end (docs/adr/0006).

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_message_headers};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

/// The headers in their order; a header without a value has an empty one. In a name, U+FFFD stands for what is not
/// UTF-8.
#[allow(unsafe_code)]
pub(super) fn of(message: &BorrowedMessage<'_>) -> Vec<(String, Vec<u8>)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is borrowed, so librdkafka keeps it and what hangs on it for as long as this function runs.
    // It writes the second argument, which stays its own.
    if unsafe { rd_kafka_message_headers(message.ptr(), &mut headers) } != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Vec::new();
    }
    let mut copied = Vec::new();
    loop {
        let (mut name, mut value, mut size) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0_usize);
        // SAFETY: `headers` was given above, and an index behind the last one is answered by an error.
        let answer = unsafe { rd_kafka_header_get_all(headers, copied.len(), &mut name, &mut value, &mut size) };
        if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return copied;
        }
        // SAFETY: librdkafka ends each name by a zero, and a value that is not null has `size` bytes; both live as long
        // as the message.
        let (name, value) = unsafe {
            let value = if value.is_null() { &[][..] } else { std::slice::from_raw_parts(value.cast::<u8>(), size) };
            (CStr::from_ptr(name), value)
        };
        copied.push((name.to_string_lossy().into_owned(), value.to_vec()));
    }
}
