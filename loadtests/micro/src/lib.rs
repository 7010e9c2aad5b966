//! What `make micro` measures in nanoseconds, and `make instructions` in instructions: paths without Kafka, PostgreSQL
//! and sockets.
//!
//! The paths themselves are behind the feature `bench` of the crates that own them.

pub mod counts;
pub mod path;
pub mod request;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
