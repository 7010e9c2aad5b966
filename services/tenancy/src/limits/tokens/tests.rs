use proptest::prelude::*;

use super::*;

const SHAPE: WindowShape = WindowShape { bucket_ms: 100, window: 20, spend: 2 };
const SPAN_MS: i64 = 2_000;
const LOCAL: Source = Source::Local { instances: 4 };

/// The shared window, as the store keeps it.
fn answer(row: &mut Window, ask: &Ask, now_ms: i64) -> Grant {
    let bucket = row.advance(SHAPE.bucket_at(now_ms));
    for unspent in &ask.returns {
        row.give_back(unspent.bucket, unspent.tokens);
    }
    if let Some(unrecorded) = &ask.unrecorded {
        row.merge(unrecorded);
    }
    let tokens = row.lease(ask.limit, ask.wanted);
    Grant { tokens, is_exhausted: tokens < ask.wanted, bucket, window: row.clone(), time_ms: now_ms, asked_ms: now_ms }
}

/// Waits for a lease and takes `count`.
fn take(tokens: &mut Tokens, row: &mut Window, count: u32, now_ms: i64) -> Decision {
    let first = tokens.take(count, now_ms, Source::Shared);
    if first != Decision::Wait {
        return first;
    }
    tokens.wait(count);
    let ask = tokens.ask(now_ms);
    tokens.granted(answer(row, &ask, now_ms), now_ms);
    tokens.stop_waiting(count);
    tokens.take(count, now_ms, Source::Shared)
}

#[test]
fn a_refusal_is_remembered_until_half_a_bucket_later() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
    assert!(matches!(take(&mut tokens, &mut row, 10, 0), Decision::Taken(_)));
    assert_eq!(take(&mut tokens, &mut row, 1, 0), Decision::Refused);
    assert_eq!(tokens.take(1, 49, Source::Shared), Decision::Refused, "PostgreSQL is not asked again");
    assert_eq!(tokens.take(1, 50, Source::Shared), Decision::Wait);
    tokens.set_limit(20);
    assert_eq!(tokens.take(1, 10, Source::Shared), Decision::Wait, "a changed limit is used at once");
    assert!(matches!(take(&mut tokens, &mut row, 1, 10), Decision::Taken(_)));
}

#[test]
fn a_batch_is_taken_as_a_whole_or_not_at_all() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
    assert!(matches!(take(&mut tokens, &mut row, 4, 0), Decision::Taken(_)));
    assert_eq!(take(&mut tokens, &mut row, 7, 0), Decision::Refused);
    assert!(matches!(take(&mut tokens, &mut row, 6, 0), Decision::Taken(_)), "the rest stays for others");
    assert_eq!(row.total(), 10);
}

#[test]
fn unspent_tokens_are_given_back_to_their_bucket() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 2_000), Window::new(SHAPE));
    assert!(matches!(take(&mut tokens, &mut row, 1, 0), Decision::Taken(_)));
    assert_eq!(row.total(), 10, "a slice is a 200th of the limit");
    assert!(!tokens.end_leases(199));
    assert!(tokens.end_leases(200));
    let ask = tokens.ask(200);
    assert_eq!((ask.wanted, ask.returns.as_slice()), (0, &[Return { bucket: 0, tokens: 9 }][..]));
    tokens.granted(answer(&mut row, &ask, 200), 200);
    assert_eq!(row.total(), 1);
}

#[test]
fn a_slice_is_leased_before_the_last_one_is_spent() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 2_000), Window::new(SHAPE));
    assert!(matches!(take(&mut tokens, &mut row, 1, 0), Decision::Taken(_)));
    for _ in 0..3 {
        assert!(matches!(tokens.take(1, 1, Source::Shared), Decision::Taken(_)));
        assert!(!tokens.needs_slice(1));
    }
    assert!(matches!(tokens.take(1, 1, Source::Shared), Decision::Taken(_)));
    assert!(tokens.needs_slice(1), "half of it is spent");
    let ask = tokens.ask(1);
    assert_eq!(ask.wanted, 41, "a 240th of the window at the rate of these 5 in 1 ms");
}

#[test]
fn a_token_put_back_can_be_taken_again_or_returns() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
    let Decision::Taken(Some(lease)) = take(&mut tokens, &mut row, 2, 0) else { panic!("not taken") };
    tokens.put_back(2, lease);
    assert_eq!(tokens.take(1, 100, Source::Shared), Decision::Taken(Some(lease)));
    assert!(tokens.end_leases(200), "one token is left");
    tokens.put_back(1, lease);
    assert_eq!(tokens.ask(200).returns.iter().map(|unspent| unspent.tokens).sum::<u32>(), 2);
}

#[test]
fn the_local_window_admits_the_part_of_this_instance() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 40), Window::new(SHAPE));
    assert!(matches!(take(&mut tokens, &mut row, 4, 0), Decision::Taken(_)));
    for _ in 0..6 {
        assert_eq!(tokens.take(1, 10, LOCAL), Decision::Taken(None));
    }
    assert_eq!(tokens.take(1, 10, LOCAL), Decision::Refused, "10 of 40, those before the outage among them");
    assert_eq!(tokens.quota(1, 10, LOCAL), Quota { limit: 40, remaining: 0, reset_ms: 2_290 });
    let ask = tokens.ask(20);
    tokens.ask_failed(ask.unrecorded.as_ref());
    let ask = tokens.ask(100);
    tokens.granted(answer(&mut row, &ask, 100), 100);
    assert_eq!(row.total(), 10, "the shared window learns of them");
    assert_eq!(tokens.quota(1, 100, Source::Shared).remaining, 30);
    assert!(tokens.ask(100).unrecorded.is_none(), "once");
}

#[test]
fn an_instance_always_has_a_part_of_at_least_one() {
    let mut tokens = Tokens::new(SHAPE, 3);
    let many = Source::Local { instances: 10 };
    assert_eq!(tokens.take(1, 0, many), Decision::Taken(None));
    assert_eq!(tokens.take(1, 0, many), Decision::Refused);
}

#[test]
fn the_quota_says_when_more_is_allowed() {
    let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
    assert_eq!(tokens.quota(1, 0, Source::Shared), Quota { limit: 10, remaining: 10, reset_ms: 0 });
    assert!(matches!(take(&mut tokens, &mut row, 6, 30), Decision::Taken(_)));
    assert!(matches!(take(&mut tokens, &mut row, 4, 130), Decision::Taken(_)));
    assert_eq!(tokens.quota(1, 150, Source::Shared), Quota { limit: 10, remaining: 0, reset_ms: 2_150 });
    assert_eq!(tokens.quota(7, 150, Source::Shared).reset_ms, 2_250, "a batch waits for more buckets");
}

proptest! {
    /// Instances with clocks of their own lease, spend and give back in any order; no span exceeds the limit.
    #[test]
    fn instances_together_never_exceed_the_limit(
        limit in prop_oneof![1_u32..50, 1_000_u32..3_000],
        steps in proptest::collection::vec((0_usize..3, 0_i64..150, 1_u32..30), 1..300),
    ) {
        let mut row = Window::new(SHAPE);
        let mut instances = [0, 7, 31].map(|offset: i64| (offset, Tokens::new(SHAPE, limit)));
        let (mut now, mut admitted) = (0, Vec::new());
        for (instance, pause, count) in steps {
            now += pause;
            let (offset, tokens) = &mut instances[instance];
            let own = now + *offset;
            let mut taken = tokens.take(count, own, Source::Shared);
            if taken == Decision::Wait || tokens.needs_slice(own) {
                tokens.wait(count);
                let ask = tokens.ask(own);
                let mut grant = answer(&mut row, &ask, now);
                grant.asked_ms = own;
                tokens.granted(grant, own);
                tokens.stop_waiting(count);
            }
            if taken == Decision::Wait {
                taken = tokens.take(count, own, Source::Shared);
            }
            if matches!(taken, Decision::Taken(_)) {
                admitted.push((now, count));
            }
        }
        for (from, _) in &admitted {
            let within = admitted.iter().filter(|(at, _)| (*from..*from + SPAN_MS).contains(at));
            let sum: u32 = within.map(|(_, count)| count).sum();
            prop_assert!(sum <= limit, "{sum} of {limit} from {from} ms on");
        }
    }
}
