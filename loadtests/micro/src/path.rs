//! The paths whose instructions are bounded.

use std::hint::black_box;

use anyhow::{Context, anyhow};
use axum::response::Response;
use clap::ValueEnum;
use dispatcher::bench::Webhook;
use ingest::bench::Handler;

use crate::request;

/// A path from its input to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Path {
    /// `POST /v1/events`, from the bytes of the body to the record and the bytes of the answer.
    Event,
    /// `POST /v1/events/batch` with 100 events.
    Batch,
    /// The signature of a webhook.
    Signature,
}

impl Path {
    /// Its name in the file of counts and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Batch => "batch",
            Self::Signature => "signature",
        }
    }

    /// After so many runs the path is warm: its caches and free lists are filled.
    pub const fn warm_up(self) -> usize {
        match self {
            Self::Event | Self::Signature => 200,
            Self::Batch => 10,
        }
    }

    /// Runs it so many times.
    ///
    /// # Errors
    /// When the product refuses the input.
    pub fn run(self, times: usize) -> anyhow::Result<()> {
        match self {
            Self::Event => {
                let (mut handler, body) = (Handler::new(), request::event(1, false));
                repeat(times, || accepted(handler.event(black_box(&body), see)))
            }
            Self::Batch => {
                let (mut handler, body) = (Handler::new(), request::batch());
                repeat(times, || accepted(handler.batch(black_box(&body), see)))
            }
            Self::Signature => {
                let webhook = Webhook::new(request::EVENT_TYPE, &request::payload(1));
                let body = webhook.body();
                repeat(times, || {
                    black_box(webhook.signature(black_box(&body)));
                    Ok(())
                })
            }
        }
    }
}

/// Takes a record as the producer does: the value is not kept.
pub fn see(value: &[u8]) {
    black_box(value);
}

fn repeat(times: usize, mut one: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    (0..times).try_for_each(|_| one()).context("the path does not work")
}

fn accepted<E>(answer: Result<Response, E>) -> anyhow::Result<()> {
    let answer = black_box(answer).map_err(|_| anyhow!("the request was refused"))?;
    answer.status().is_success().then_some(()).context("not all events were accepted")
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::FutureExt;
    use schemas::codec;
    use serde_json::Value;

    use super::*;

    fn json(answer: Response) -> Value {
        let body = to_bytes(answer.into_body(), usize::MAX).now_or_never().unwrap().unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn an_event_becomes_a_record_and_an_answer() {
        let mut record = Vec::new();
        let answer = Handler::new().event(&request::event(1, true), |value| record = value.to_vec());
        let answer = answer.map_err(|problem| problem.detail().to_owned()).unwrap();
        assert_eq!(answer.status(), 201);
        let (event, body) = (codec::decode_event(&record).unwrap(), json(answer));
        assert_eq!((event.payload, event.dedup.is_some()), (request::payload(1), true));
        assert_eq!(body["event_id"], event.event_id.to_string());
        assert!(body["position"].as_str().is_some_and(|token| token.len() > 40), "{body}");
    }

    #[test]
    fn each_event_of_a_batch_becomes_a_record_and_a_result() {
        let mut payloads = Vec::new();
        let submit = |value: &[u8]| payloads.push(codec::decode_event(value).unwrap().payload);
        let answer = Handler::new().batch(&request::batch(), submit);
        let answer = answer.map_err(|problem| problem.detail().to_owned()).unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(payloads, (0..request::BATCH_EVENTS as u64).map(request::payload).collect::<Vec<_>>());
        let body = json(answer);
        assert_eq!((&body["accepted"], body["results"].as_array().unwrap().len()), (&100.into(), 100));
    }

    #[test]
    fn every_path_runs() {
        for path in Path::value_variants() {
            path.run(2).unwrap();
        }
    }
}
