//! Filters against a naive evaluation of the same JSON, and arbitrary bytes.

use fuzz::{DecodeOutcome, JSON, Samples, drive};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::payload::Payload;
use super::{Filter, read};

fn compiled(filter: &Value) -> Filter {
    read(filter, "filter").unwrap_or_else(|errors| panic!("{filter}: {errors:?}"))
}

fn holds(filter: &Value, payload: &str) -> bool {
    compiled(filter).holds(&Payload::new(payload, false))
}

/// The field and the reason of each mistake.
fn mistakes(filter: &Value) -> Vec<(String, String)> {
    let errors = read(filter, "filter").err().unwrap_or_else(|| panic!("{filter} is taken"));
    errors.into_iter().map(|error| (error.field, error.reason)).collect()
}

const ORDER: &str = r#" {"order": {"total": 100.50, "currency": "EUR", "paid": null, "items": [{"sku": "a-1"}, 7]},
    "a.b": {"": true}, "big": 12345678901234567890123, "twice": 1, "twice": 2, "0": "zero", "t": "\u00e9\"x"} "#;

#[test]
fn each_operator_compares_values_of_its_type() {
    for (filter, expected) in [
        (json!({"path": "order.total", "gte": 100}), true),
        (json!({"path": "order.total", "gt": 100.5}), false),
        (json!({"path": "order.total", "gte": 100.5, "lt": 101}), true),
        (json!({"path": "order.total", "lte": 1e2}), false),
        (json!({"path": "order.total", "equals": 100.5}), true),
        (json!({"path": "order.total", "equals": "100.50"}), false),
        (json!({"path": "order.currency", "in": ["USD", "EUR"]}), true),
        (json!({"path": "order.currency", "prefix": "EU"}), true),
        (json!({"path": "order.currency", "prefix": "eu"}), false),
        (json!({"path": "order.currency", "gt": 1}), false),
        (json!({"path": "order.paid", "equals": null}), true),
        (json!({"path": "order.paid", "exists": true}), true),
        (json!({"path": "order.none", "equals": null}), false),
        (json!({"path": "order.none", "exists": false}), true),
        (json!({"path": "order.items", "equals": 7}), false),
        (json!({"path": "t", "equals": "\u{e9}\"x"}), true),
        (json!({"path": "twice", "equals": 2}), true),
        (json!({"path": "big", "gt": 12_345_678_901_234_567_890_u64}), true),
        (json!({"not": {"path": "order.total", "gt": 1000}}), true),
        (json!({"any": [{"path": "x", "exists": true}, {"all": [{"path": "big", "exists": true}]}]}), true),
    ] {
        assert_eq!(holds(&filter, ORDER), expected, "{filter}");
    }
}

#[test]
fn paths_go_through_members_and_items() {
    for (path, expected) in [
        (json!("order.items.0.sku"), true),
        (json!("order.items.1"), true),
        (json!("order.items.00"), false),
        (json!("order.items.2"), false),
        (json!("order.items.sku"), false),
        (json!("order.items.-1"), false),
        (json!(["a.b", ""]), true),
        (json!("a.b"), false),
        (json!("0"), true),
        (json!("order.total.x"), false),
        (json!("order.items.99999999999999999999999"), false),
    ] {
        assert_eq!(holds(&json!({"path": path, "exists": true}), ORDER), expected, "{path}");
    }
}

#[test]
fn of_other_payloads_only_a_negation_holds() {
    let (exists, absent) = (json!({"path": "a", "exists": true}), json!({"path": "a", "exists": false}));
    for payload in ["1", "null", "[{\"a\": 1}]", "\"a\"", "true", ""] {
        assert!(!holds(&exists, payload) && !holds(&absent, payload), "{payload}");
        assert!(holds(&json!({"not": exists}), payload) && holds(&json!({"not": absent}), payload), "{payload}");
    }
    let encoded = Payload::new("{\"a\": 1}", true);
    assert!(!compiled(&exists).holds(&encoded), "binary data has no members");
}

#[test]
fn each_condition_has_a_verdict_at_its_place() {
    let filter = json!({"all": [
        {"path": "order.total", "gte": 100},
        {"any": [{"path": "x", "exists": true}, {"not": {"path": "order.currency", "equals": "EUR"}}]},
    ]});
    let verdicts = compiled(&filter).verdicts(&Payload::new(ORDER, false));
    let shown: Vec<_> = verdicts.iter().map(|verdict| (verdict.condition.as_str(), verdict.holds)).collect();
    assert_eq!(shown, [("all[0]", true), ("all[1].any[0]", false), ("all[1].any[1].not", true)]);
    let single = compiled(&json!({"path": "x", "exists": true})).verdicts(&Payload::new(ORDER, false));
    assert_eq!((single.len(), single[0].condition.as_str(), single[0].holds), (1, "", false));
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let ok = json!({"path": "a", "exists": true});
    for (filter, field) in [
        (json!([]), "filter"),
        (json!({}), "filter"),
        (json!({"path": "a"}), "filter"),
        (json!({"all": []}), "filter.all"),
        (json!({"any": ok}), "filter.any"),
        (json!({"not": [ok]}), "filter.not"),
        (json!({"all": [ok], "any": [ok]}), "filter.any"),
        (json!({"all": [ok], "path": "a"}), "filter.path"),
        (json!({"all": [ok, {"path": "b", "gte": "100"}]}), "filter.all[1].gte"),
        (json!({"all": [ok, {"not": {"path": "b", "greater": 1}}]}), "filter.all[1].not.greater"),
        (json!({"path": "a..b", "exists": true}), "filter.path"),
        (json!({"path": "", "exists": true}), "filter.path"),
        (json!({"path": "$.a", "exists": true}), "filter.path"),
        (json!({"path": [], "exists": true}), "filter.path"),
        (json!({"path": ["a", 0], "exists": true}), "filter.path"),
        (json!({"path": 1, "exists": true}), "filter.path"),
        (json!({"path": "a", "exists": 1}), "filter.exists"),
        (json!({"path": "a", "in": []}), "filter.in"),
        (json!({"path": "a", "in": vec![1; 101]}), "filter.in"),
        (json!({"path": "a", "in": [[1]]}), "filter.in"),
        (json!({"path": "a", "equals": {}}), "filter.equals"),
        (json!({"path": "a", "prefix": ""}), "filter.prefix"),
        (json!({"path": "a", "lt": null}), "filter.lt"),
        (json!({"path": "a", "lt": 0.123_456_789_012_345_68}), "filter.lt"),
        (serde_json::from_str(r#"{"path": "a", "equals": 12345678901234567890123}"#).unwrap(), "filter.equals"),
    ] {
        assert_eq!(mistakes(&filter)[0].0, field, "{filter}");
    }
    let both = json!({"all": [{"path": "a", "lt": "1"}, ok, {"path": "", "exists": true}]});
    let fields: Vec<_> = mistakes(&both).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["filter.all[0].lt", "filter.all[2].path"]);
}

#[test]
fn size_depth_and_number_of_conditions_are_bounded() {
    let ok = json!({"path": "a", "exists": true});
    let nested = |levels: usize| (1..levels).fold(ok.clone(), |inner, _| json!({ "not": inner }));
    compiled(&nested(8));
    assert!(mistakes(&nested(9))[0].1.contains("8 levels"));
    let many = |count: usize| json!({"any": vec![ok.clone(); count]});
    compiled(&many(64));
    assert!(mistakes(&many(65))[0].1.contains("64 conditions"));
    let long = json!({"path": "a", "equals": "x".repeat(8192)});
    assert!(mistakes(&long)[0].1.contains("8192 bytes"));
    assert_eq!(mistakes(&json!({"any": vec![json!({"path": 1, "lt": ""}); 60]})).len(), 10);
}

#[test]
fn filters_that_never_hold_are_refused() {
    let refused = |filter: Value, field: &str| {
        let mistakes = mistakes(&filter);
        assert_eq!(mistakes[0].0, field, "{filter}");
        assert!(mistakes[0].1.contains("never holds"), "{filter}: {}", mistakes[0].1);
    };
    refused(json!({"path": "a", "gt": 2, "lt": 1}), "filter");
    refused(json!({"path": "a", "gt": 1, "lte": 1}), "filter");
    refused(json!({"path": "a", "exists": false, "equals": 1}), "filter");
    refused(json!({"path": "a", "prefix": "x", "gt": 1}), "filter");
    refused(json!({"all": [{"path": "a.b", "gte": 2}, {"path": ["a", "b"], "lt": 2}]}), "filter.all[1]");
    refused(json!({"all": [{"path": "a", "equals": 1}, {"path": "a", "in": ["1", 2]}]}), "filter.all[1]");
    refused(
        json!({"all": [{"path": "a", "prefix": "ab"}, {"all": [{"path": "a", "prefix": "ac"}]}]}),
        "filter.all[1].all[0]",
    );
    refused(json!({"any": [{"all": [{"path": "a", "lt": 0}, {"path": "a", "in": [0, 1]}]}]}), "filter.any[0].all[1]");
    for possible in [
        json!({"path": "a", "gte": 1, "lte": 1.0}),
        json!({"path": "a", "gt": 1, "lt": 1.000001}),
        json!({"all": [{"path": "a", "equals": 1}, {"path": "b", "equals": 2}]}),
        json!({"any": [{"path": "a", "gt": 2}, {"path": "a", "lt": 1}]}),
        json!({"all": [{"path": "a", "in": [1, 2]}, {"path": "a", "in": [2.0, 3]}]}),
        json!({"not": {"path": "a", "gt": 2, "lt": 1}}),
    ] {
        compiled(&possible);
    }
}

/// Evaluates the JSON itself. Its numbers are small.
fn naive(filter: &Value, payload: &Value) -> bool {
    if let Some(list) = filter.get("all") {
        return list.as_array().unwrap().iter().all(|one| naive(one, payload));
    }
    if let Some(list) = filter.get("any") {
        return list.as_array().unwrap().iter().any(|one| naive(one, payload));
    }
    if let Some(inner) = filter.get("not") {
        return !naive(inner, payload);
    }
    let mut found = payload.is_object().then_some(payload);
    let mut pointer = String::new();
    for name in filter["path"].as_array().unwrap() {
        pointer += &format!("/{}", name.as_str().unwrap().replace('~', "~0").replace('/', "~1"));
    }
    found = found.and_then(|payload| payload.pointer(&pointer));
    let number = |value: &Value| value.as_f64().unwrap();
    let is_equal = |one: &Value, other: &Value| match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() < 0.1,
        _ => one == other,
    };
    let mut operators = filter.as_object().unwrap().iter().filter(|(name, _)| *name != "path");
    payload.is_object()
        && operators.all(|(name, wanted)| match (name.as_str(), found) {
            ("exists", found) => found.is_some() == wanted.as_bool().unwrap(),
            (_, None) => false,
            ("equals", Some(found)) => is_equal(found, wanted),
            ("in", Some(found)) => wanted.as_array().unwrap().iter().any(|one| is_equal(found, one)),
            ("prefix", Some(found)) => found.as_str().is_some_and(|text| text.starts_with(wanted.as_str().unwrap())),
            (name, Some(found)) => found.as_f64().is_some_and(|found| match name {
                "gt" => found > number(wanted),
                "gte" => found >= number(wanted),
                "lt" => found < number(wanted),
                _ => found <= number(wanted),
            }),
        })
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-2_i64..3).prop_map(Value::from),
        (-4_i32..5).prop_map(|half| json!(f64::from(half) / 2.0)),
        prop::sample::select(vec!["", "a", "ab", "b.c", "1"]).prop_map(Value::from),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "0", "1", "b.c", ""]).prop_map(str::to_owned)
}

fn payload() -> impl Strategy<Value = Value> {
    let value = scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..4).prop_map(Value::from_iter),
        ]
    });
    let object = prop::collection::btree_map(name(), value.clone(), 0..4).prop_map(Value::from_iter);
    prop_oneof![9 => object, 1 => value]
}

fn operator() -> impl Strategy<Value = (String, Value)> {
    let number = (-2_i64..3).prop_map(Value::from);
    prop_oneof![
        any::<bool>().prop_map(|flag| ("exists".to_owned(), json!(flag))),
        scalar().prop_map(|value| ("equals".to_owned(), value)),
        prop::collection::vec(scalar(), 1..4).prop_map(|values| ("in".to_owned(), json!(values))),
        prop::sample::select(vec!["a", "ab", "b", "1"]).prop_map(|text| ("prefix".to_owned(), json!(text))),
        (prop::sample::select(vec!["gt", "gte", "lt", "lte"]), number)
            .prop_map(|(name, number)| (name.to_owned(), number)),
    ]
}

fn filter() -> impl Strategy<Value = Value> {
    let condition =
        (prop::collection::vec(name(), 1..3), prop::collection::vec(operator(), 1..3)).prop_map(|(path, operators)| {
            let mut condition = json!({ "path": path });
            for (name, value) in operators {
                condition[name] = value;
            }
            condition
        });
    condition.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({ "all": list })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({ "any": list })),
            inner.prop_map(|inner| json!({ "not": inner })),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn filters_hold_as_the_naive_evaluation_says(filter in filter(), payloads in prop::collection::vec(payload(), 8)) {
        for value in &payloads {
            let expected = naive(&filter, value);
            let text = value.to_string();
            let payload = Payload::new(&text, false);
            match read(&filter, "filter") {
                Ok(compiled) => {
                    prop_assert_eq!(compiled.holds(&payload), expected, "{} of {}", filter, text);
                }
                Err(errors) => {
                    prop_assert!(errors.iter().all(|error| error.reason.contains("never holds")), "{errors:?}");
                    // An `any` may have another filter that holds; of an `all`, none does.
                    let is_sure = filter.get("any").is_none() && !filter.to_string().contains("\"any\"");
                    prop_assert!(!(is_sure && expected), "{filter} holds for {text}");
                }
            }
        }
    }
}

fn samples() -> Vec<Vec<u8>> {
    [
        r#"{"all": [{"path": "order.total", "gte": 100}, {"path": ["order", "currency"], "in": ["EUR", "USD"]}]}"#,
        r#"{"any": [{"not": {"path": "a.0.b", "prefix": "x"}}, {"path": "n", "gt": -1.5e3, "lt": 9}]}"#,
        r#"{"path": "a", "exists": false}"#,
        r#"{"order": {"total": 100.50, "currency": "EUR"}, "a": [{"b": "xy"}], "n": 12345678901234567890123}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

#[test]
fn any_json_is_read_as_a_filter_or_refused_with_places() {
    let golden = samples();
    let payload = Payload::new(ORDER, false);
    drive("filter", &Samples { golden: &golden, tokens: JSON, header: 1, large: 20_000 }, |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Ok(DecodeOutcome::Refused) };
        match read(&value, "filter") {
            Ok(filter) => {
                let verdicts = filter.verdicts(&payload).len();
                let _holds = filter.holds(&payload);
                if (1..=64).contains(&verdicts) { Ok(DecodeOutcome::Read) } else { Err(format!("{verdicts} verdicts")) }
            }
            Err(errors) if errors.is_empty() => Err("it is refused without a reason".to_owned()),
            Err(errors) => match errors.iter().find(|error| !error.field.starts_with("filter")) {
                Some(error) => Err(format!("the place is {}", error.field)),
                None => Ok(DecodeOutcome::Refused),
            },
        }
    });
}

#[test]
fn values_are_found_in_any_json_as_serde_finds_them() {
    let golden = samples();
    let exists = compiled(&json!({"path": ["order", "total"], "exists": true}));
    let in_array = compiled(&json!({"path": "a.0.b", "exists": true}));
    drive("payload of a filter", &Samples { golden: &golden, tokens: JSON, header: 1, large: 300_000 }, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(DecodeOutcome::Refused) };
        let payload = Payload::new(text, false);
        let found = (exists.holds(&payload), in_array.holds(&payload));
        let Ok(value) = serde_json::from_str::<Value>(text) else { return Ok(DecodeOutcome::Refused) };
        let at = |pointer| value.is_object() && value.pointer(pointer).is_some();
        let expected = (at("/order/total"), at("/a/0/b"));
        if found == expected { Ok(DecodeOutcome::Read) } else { Err(format!("{found:?} instead of {expected:?}")) }
    });
}
