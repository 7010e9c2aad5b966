//! When a batch that failed is split, so that one event that a receiver cannot take does not stop the others for ever.
//! Pure.

/// A batch that is split has a tenth of the events next time: with the default retry schedule, an event of a batch of a
/// thousand is alone before the schedule ends.
const DIVISOR: u32 = 10;

/// The most events that may share the next request of a delivery whose attempt number `attempt` (1 is the first of its
/// schedule) failed in a request of `events`. `status`: that of the answer. `None`: no new bound.
///
/// The receiver refused the content (4xx, but not 408 and 429), or it is not the first failure: the next request is
/// smaller. Before the last attempt of the schedule, it has one event.
pub(crate) fn limit_after_failure(attempt: u32, attempts: u32, status: Option<u16>, events: usize) -> Option<u32> {
    let events = u32::try_from(events).unwrap_or(u32::MAX);
    if events <= 1 {
        return None;
    }
    if attempt.saturating_add(1) >= attempts {
        return Some(1);
    }
    let is_content = matches!(status, Some(400..=407 | 409..=428 | 430..=499));
    (is_content || attempt >= 2).then(|| (events / DIVISOR).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_answer_decides_after_the_first_failure() {
        for (status, split) in [
            (Some(400), true),
            (Some(413), true),
            (Some(422), true),
            (Some(408), false),
            (Some(429), false),
            (Some(500), false),
            (Some(302), false),
            (None, false),
        ] {
            assert_eq!(limit_after_failure(1, 5, status, 500), split.then_some(50), "{status:?}");
            assert_eq!(limit_after_failure(2, 5, status, 500), Some(50), "a second failure, {status:?}");
        }
    }

    #[test]
    fn a_request_with_one_event_has_no_new_bound() {
        assert_eq!(limit_after_failure(1, 5, Some(400), 1), None);
        assert_eq!(limit_after_failure(1, 2, Some(500), 2), Some(1), "the last attempt is alone");
    }

    proptest! {
        #[test]
        fn the_last_attempt_is_alone(
            attempts in 2_u32..22, events in 1_usize..=1000, status in prop::option::of(300_u16..600),
        ) {
            let mut size = events;
            for attempt in 1..attempts {
                let limit = limit_after_failure(attempt, attempts, status, size);
                prop_assert!(limit.is_none_or(|limit| limit >= 1 && (limit as usize) < size));
                size = limit.map_or(size, |limit| limit as usize);
            }
            prop_assert_eq!(size, 1);
        }
    }
}
