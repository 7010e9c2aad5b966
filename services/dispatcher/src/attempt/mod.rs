//! One attempt: the signed HTTP request and its report to the log. The pure core is `body`, `sign`,
//! `compat_sign`, `client_certificate`, `token_answer` and `egress`.

pub(crate) mod attempter;
pub(crate) mod authorization;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod client_certificate;
pub(crate) mod compat_sign;
pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod egress;
pub(crate) mod failure;
pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod reporting;
pub(crate) mod resolver;
pub(crate) mod sign;
pub(crate) mod single_flight;
pub(crate) mod slots;
pub(crate) mod timings;
pub(crate) mod token_answer;
pub(crate) mod tokens;
