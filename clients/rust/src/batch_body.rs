//! The bodies of batches. Pure.

use std::iter::Peekable;

/// Largest number of events in a request.
const MAX_EVENTS: usize = 1_000;
/// Largest body of a request.
const MAX_BYTES: usize = 4 * 1024 * 1024;
const START: &[u8] = b"{\"events\":[";
const END: &[u8] = b"]}";

/// Takes as many of the next texts as fit into one request, and at least one: the server refuses one that is too large.
pub(crate) fn take(texts: &mut Peekable<impl Iterator<Item = Vec<u8>>>) -> Vec<Vec<u8>> {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut bytes = START.len() + END.len();
    while taken.len() < MAX_EVENTS {
        let fits = |text: &Vec<u8>| taken.is_empty() || bytes + text.len() <= MAX_BYTES;
        let Some(text) = texts.next_if(fits) else { break };
        // And a comma.
        bytes += text.len() + 1;
        taken.push(text);
    }
    taken
}

/// The body with these events.
pub(crate) fn join(texts: &[&[u8]]) -> Vec<u8> {
    [START, &texts.join(&b","[..]), END].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(texts: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
        let mut texts = texts.into_iter().peekable();
        let mut requests = Vec::new();
        while texts.peek().is_some() {
            requests.push(take(&mut texts));
        }
        requests
    }

    fn body(texts: &[Vec<u8>]) -> Vec<u8> {
        join(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn a_request_has_at_most_1000_events() {
        let sizes: Vec<usize> = requests(vec![b"1".to_vec(); 2_001]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 1]);
        assert_eq!(body(&[b"1".to_vec(), b"{}".to_vec()]), br#"{"events":[1,{}]}"#);
    }

    #[test]
    fn a_request_may_have_exactly_4_mib() {
        let room = MAX_BYTES - body(&[vec![], vec![]]).len();
        let texts = |second: usize| vec![vec![b'1'; 1_000], vec![b'1'; second]];
        let fits = requests(texts(room - 1_000));
        assert_eq!((fits.len(), body(&fits[0]).len()), (1, MAX_BYTES));
        assert_eq!(requests(texts(room - 999)).len(), 2, "one byte more does not fit");
    }

    proptest! {
        #[test]
        fn every_event_is_in_one_request_in_order(sizes in prop::collection::vec(1_usize..900_000, 0..40)) {
            let texts: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'1'; *size]).collect();
            let requests = requests(texts.clone());
            prop_assert!(requests.iter().all(|request| !request.is_empty() && body(request).len() <= MAX_BYTES));
            prop_assert_eq!(requests.concat(), texts);
        }
    }
}
