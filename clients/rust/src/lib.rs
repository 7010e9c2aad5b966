#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod ack;
mod batch;
mod batch_body;
mod client;
mod error;
mod event;
mod events;
mod inbox;
mod lookup;
mod problem;
mod retry;
mod send;
mod settings;
mod transport;
pub mod webhook;

pub use ack::Acknowledged;
pub use client::{Client, ClientBuilder};
pub use error::Error;
pub use event::Event;
pub use events::Events;
pub use inbox::{DeliveryStatus, InboxEvent, InboxRequest, Page, Pagination};
pub use lookup::{Delivery, EventStatus};
pub use problem::{FieldError, Problem};
pub use send::Accepted;
