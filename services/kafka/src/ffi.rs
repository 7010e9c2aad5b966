//! The functions of librdkafka that rdkafka does not wrap. This is the one module with `unsafe` (docs/adr/0006): names
//! of headers that are not UTF-8, topic ids, leader epochs, and which partition an error is about.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use uuid::Uuid;

const NO_ERROR: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

/// The headers that have a value, in their order. In a name, U+FFFD replaces what is not UTF-8, and a NUL with what
/// follows it: librdkafka ends names there, so that one could pass for a name that has a meaning.
#[allow(unsafe_code)]
pub(super) fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Vec<u8>)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is borrowed, so librdkafka keeps it and its parts while this function runs.
    // It writes the second argument, which it owns.
    if unsafe { native::rd_kafka_message_headers(message.ptr(), &mut headers) } != NO_ERROR {
        return Vec::new();
    }
    let mut copied = Vec::new();
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0_usize);
        // SAFETY: `headers` was given above, and an index behind the last one is answered by an error.
        let answer = unsafe { native::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
        if answer != NO_ERROR || name.is_null() {
            break;
        }
        if value.is_null() {
            continue;
        }
        // SAFETY: librdkafka ends each name by a zero, and a value that is not null has `size` bytes; both live as long
        // as the message. The value was checked for null.
        let (name, value) = unsafe { (CStr::from_ptr(name), std::slice::from_raw_parts(value.cast::<u8>(), size)) };
        let mut text = name.to_string_lossy().into_owned();
        // It keeps a value right behind its name and the zero that ends it.
        if value.as_ptr().addr() != name.as_ptr().addr() + name.to_bytes().len() + 1 {
            text.push('\u{fffd}');
        }
        copied.push((text, value.to_vec()));
    }
    copied
}

/// The leader epoch of the batch that a record is in; `None`: the batch has none.
#[allow(unsafe_code)]
pub(super) fn leader_epoch(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the message is borrowed, so librdkafka keeps it; the function only reads it.
    known(unsafe { native::rd_kafka_message_leader_epoch(message.ptr()) })
}

/// The leader epoch of one partition in a list; `None`: the list does not have the partition, or no epoch for it.
#[allow(unsafe_code)]
pub(super) fn leader_epoch_in(list: &TopicPartitionList, topic: &str, partition: i32) -> Option<i32> {
    let topic = CString::new(topic).ok()?;
    // SAFETY: the list is borrowed, so it and its elements live as long as this function; what is found is checked
    // before it is read.
    known(unsafe {
        let found = native::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if found.is_null() { -1 } else { native::rd_kafka_topic_partition_get_leader_epoch(found) }
    })
}

/// Adds a partition with the offset to read from and the leader epoch of the record before that offset.
///
/// # Errors
/// When librdkafka refuses the offset.
#[allow(unsafe_code)]
pub(super) fn add_with_leader_epoch(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    next_offset: i64,
    leader_epoch: Option<i32>,
) -> Result<(), KafkaError> {
    list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(next_offset))?;
    let (Some(leader_epoch), Ok(topic)) = (leader_epoch, CString::new(topic)) else { return Ok(()) };
    // SAFETY: the list is borrowed for writing, so nobody else has its elements; what is found is checked before it is
    // written.
    unsafe {
        let found = native::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if !found.is_null() {
            native::rd_kafka_topic_partition_set_leader_epoch(found, leader_epoch);
        }
    }
    Ok(())
}

fn known(leader_epoch: i32) -> Option<i32> {
    (leader_epoch >= 0).then_some(leader_epoch)
}

/// What a consumer of one topic met: a record or the end of a partition (`error` is `None`), or an error.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) partition: i32,
    pub(super) error: Option<(RDKafkaErrorCode, String)>,
}

/// Polls once. rdkafka's own `poll` does not report the partition of an error. `None`: nothing came, or an error
/// that is about no partition.
#[allow(unsafe_code)]
pub(super) fn poll<C: ConsumerContext>(client: &BaseConsumer<C>, timeout: Duration) -> Option<Met> {
    // SAFETY: the client lives as long as the borrow.
    let message = unsafe { native::rd_kafka_consumer_poll(client.client().native_ptr(), millis(timeout)) };
    // SAFETY: a message that is not null is ours until it is destroyed, which is done once, after what is needed was
    // copied. The payload of an error is a text of `len` bytes.
    unsafe {
        let read = message.as_ref()?;
        let met = (!read.rkt.is_null()).then(|| {
            let is_end = read.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF;
            let error = (read.err != NO_ERROR && !is_end).then(|| {
                let text = if read.payload.is_null() {
                    String::new()
                } else {
                    let text = std::slice::from_raw_parts(read.payload.cast::<u8>(), read.len);
                    String::from_utf8_lossy(text).into_owned()
                };
                (RDKafkaErrorCode::from(read.err), text)
            });
            Met { partition: read.partition, error }
        });
        native::rd_kafka_message_destroy(message);
        met
    }
}

/// Asks the brokers for the ids of topics: one request for all. A topic that is not there, or that the brokers give no
/// id for, is not in the answer.
///
/// # Errors
/// When the controller does not answer within `timeout`: librdkafka asks no other broker.
#[allow(unsafe_code)]
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Uuid>, KafkaError> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let handle = client.native_ptr();
    // SAFETY: the client and the names outlive the call. librdkafka copies the names and the options. What is made here
    // is destroyed here, once, after what is needed was copied; the queue last, and librdkafka drops an answer that
    // comes after that.
    unsafe {
        let wanted = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = native::rd_kafka_AdminOptions_new(handle, operation);
        let mut text = [0; 128];
        let set = native::rd_kafka_AdminOptions_set_request_timeout;
        set(options, millis(timeout), text.as_mut_ptr(), text.len());
        let queue = native::rd_kafka_queue_new(handle);
        native::rd_kafka_DescribeTopics(handle, wanted, options, queue);
        // The request has its own timeout, and then says so.
        let event = native::rd_kafka_queue_poll(queue, millis(timeout.saturating_add(Duration::from_secs(1))));
        let ids = ids_of(event);
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(wanted);
        ids
    }
}

/// # Safety
/// `event` is null or an event that nobody has destroyed.
#[allow(unsafe_code)]
unsafe fn ids_of(event: *mut native::rd_kafka_event_t) -> Result<BTreeMap<String, Uuid>, KafkaError> {
    if event.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
    }
    // SAFETY: the event lives, and so does all that hangs on it; null is checked for.
    unsafe {
        let error = native::rd_kafka_event_error(event);
        if error != NO_ERROR {
            return Err(KafkaError::AdminOp(error.into()));
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::Fail));
        }
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut ids = BTreeMap::new();
        for index in 0..count {
            let topic = *described.add(index);
            let (name, id) =
                (native::rd_kafka_TopicDescription_name(topic), native::rd_kafka_TopicDescription_topic_id(topic));
            let error = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic));
            if error == NO_ERROR && !name.is_null() && !id.is_null() {
                let high = native::rd_kafka_Uuid_most_significant_bits(id);
                let low = native::rd_kafka_Uuid_least_significant_bits(id);
                let id = Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned());
                if !id.is_nil() {
                    ids.insert(CStr::from_ptr(name).to_string_lossy().into_owned(), id);
                }
            }
        }
        Ok(ids)
    }
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}
