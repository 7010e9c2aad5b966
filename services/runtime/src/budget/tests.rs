use proptest::prelude::*;

use super::*;

#[test]
fn a_holder_gets_its_share_and_no_more() {
    let budget = Budget::new("test_share", 10, 6);
    let (one, other) = (budget.share(), budget.share());
    let first = one.take(4).unwrap();
    assert_eq!(one.take(3).err(), Some(Exhausted::Holder));
    let second = other.take(6).unwrap();
    assert_eq!(one.take(1).err(), Some(Exhausted::All));
    assert_eq!((budget.held(), one.held(), other.held()), (10, 4, 6));
    drop((first, second));
    assert_eq!((budget.held(), one.held(), other.held()), (0, 0, 0));
}

#[test]
fn a_permit_grows_within_the_bounds_and_shrinks() {
    let budget = Budget::new("test_grow", 10, 6);
    let share = budget.share();
    let mut permit = share.take(2).unwrap();
    permit.grow(4).unwrap();
    assert_eq!(permit.grow(1), Err(Exhausted::Holder));
    permit.shrink_to(1);
    permit.shrink_to(5);
    assert_eq!((permit.amount(), budget.held()), (1, 1));
}

#[test]
fn an_unbounded_share_holds_up_to_everything() {
    let budget = Budget::new("test_unbounded", 10, 6);
    assert_eq!(budget.unbounded_share().take(11).err(), Some(Exhausted::All));
    assert!(budget.unbounded_share().take(10).is_ok());
}

#[test]
fn a_key_has_one_share_while_it_holds_something() {
    let budget = Budget::new("test_keyed", 1_000_000, 2);
    let shares = KeyedShares::new(budget.clone());
    let held = (shares.of(1).take(1).unwrap(), shares.of(1).take(1).unwrap());
    assert_eq!(shares.of(1).take(1).err(), Some(Exhausted::Holder));
    assert!(shares.of(2).take(2).is_ok());
    drop(held);
    assert!(shares.of(1).take(2).is_ok());
}

#[tokio::test]
async fn a_waiter_gets_what_its_own_holder_gives_back() {
    let budget = Budget::new("test_wait", 10, 1);
    let share = budget.share();
    let held = share.take(1).unwrap();
    let waiting = tokio::spawn({
        let share = share.clone();
        async move { share.take_when_free(1, Duration::from_secs(60)).await.is_ok() }
    });
    tokio::task::yield_now().await;
    drop(held);
    assert!(waiting.await.unwrap());
    let _held = share.take(1).unwrap();
    assert_eq!(share.take_when_free(1, Duration::from_millis(1)).await.err(), Some(Exhausted::Holder));
}

proptest! {
    #[test]
    fn held_is_the_sum_of_the_permits_and_within_bounds(
        steps in proptest::collection::vec((0_usize..3, 0_u64..8, any::<bool>()), 1..100)
    ) {
        let budget = Budget::new("test_sum", 12, 7);
        let shares = [budget.share(), budget.share(), budget.share()];
        let mut permits: Vec<(usize, Permit)> = Vec::new();
        for (holder, amount, take) in steps {
            if take {
                permits.extend(shares[holder].take(amount).ok().map(|permit| (holder, permit)));
            } else if !permits.is_empty() {
                drop(permits.swap_remove(holder % permits.len()));
            }
            let sum = |wanted: Option<usize>| -> u64 {
                let of = permits.iter().filter(|(holder, _)| wanted.is_none_or(|wanted| wanted == *holder));
                of.map(|(_, permit)| permit.amount()).sum()
            };
            prop_assert_eq!(budget.held(), sum(None));
            prop_assert!(budget.held() <= 12);
            for (holder, share) in shares.iter().enumerate() {
                prop_assert_eq!(share.held(), sum(Some(holder)));
                prop_assert!(share.held() <= 7);
            }
        }
    }
}
