use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::attempt::client_certificate::tests::self_signed;

const NOW: OffsetDateTime = datetime!(2026-11-29 0:00 UTC);

fn read_one(value: &Value) -> Result<ReceiverAuth, Vec<FieldError>> {
    read(value, &EgressPolicy::default(), NOW)
}

fn invalid_fields(value: &Value) -> Vec<String> {
    read_one(value).unwrap_err().into_iter().map(|error| error.field).collect()
}

#[test]
fn each_type_is_read_and_shown_without_secrets() {
    let (certificate, private_key) = self_signed(2100);
    let secret = "hush-hush";
    for (given, wanted) in [
        (
            json!({"type": "basic", "username": "shop", "password": secret}),
            json!({"type": "basic", "username": "shop"}),
        ),
        (json!({"type": "bearer", "token": secret}), json!({"type": "bearer"})),
        (
            json!({"type": "oauth2", "token_url": "https://id.example/t#x", "client_id": "c", "client_secret": secret,
                   "scope": "a b", "audience": null}),
            json!({"type": "oauth2", "token_url": "https://id.example/t", "client_id": "c", "scope": "a b"}),
        ),
        (
            json!({"type": "mtls", "certificate": certificate, "private_key": private_key}),
            json!({"type": "mtls", "certificate_expires_at": "2100-01-01T00:00:00.000Z",
                   "certificate_sha256": client_certificate::describe(&certificate).unwrap().sha256_text()}),
        ),
    ] {
        let auth = read_one(&given).unwrap();
        assert_eq!(serde_json::to_value(auth.shown()).unwrap(), wanted);
        assert!(!format!("{auth:?}").contains(secret) && !format!("{auth:?}").contains("PRIVATE"), "{auth:?}");
        let sealed = serde_json::to_vec(&auth).unwrap();
        assert_eq!(serde_json::from_slice::<ReceiverAuth>(&sealed).unwrap(), auth);
        let shown: ShownAuth = serde_json::from_value(wanted).unwrap();
        assert_eq!(shown, auth.shown());
    }
}

#[test]
fn every_invalid_member_is_named_by_its_place() {
    let oauth2 = |more: Value| {
        let mut value = json!({"type": "oauth2", "token_url": "https://id.example/", "client_id": "c",
                               "client_secret": "s"});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    for (value, fields) in [
        (json!(["basic"]), vec!["auth"]),
        (json!({}), vec!["auth.type"]),
        (json!({"type": null}), vec!["auth.type"]),
        (json!({"type": "digest"}), vec!["auth.type"]),
        (json!({"type": 1}), vec!["auth.type"]),
        (json!({"type": "basic"}), vec!["auth.username", "auth.password"]),
        (json!({"type": "basic", "username": "a:b", "password": "c\n"}), vec!["auth.username", "auth.password"]),
        (json!({"type": "basic", "usrname": "a"}), vec!["auth.usrname", "auth.username", "auth.password"]),
        (json!({"type": "bearer", "token": "a b"}), vec!["auth.token"]),
        (json!({"type": "bearer", "token": ""}), vec!["auth.token"]),
        (json!({"type": "bearer", "token": "t", "password": "p"}), vec!["auth.password"]),
        (oauth2(json!({"token_url": "http://id.example/"})), vec!["auth.token_url"]),
        (oauth2(json!({"token_url": "https://10.0.0.1/"})), vec!["auth.token_url"]),
        (oauth2(json!({"client_id": "", "client_secret": 1})), vec!["auth.client_id", "auth.client_secret"]),
        (oauth2(json!({"scope": "a\"b", "audience": "\u{1}"})), vec!["auth.scope", "auth.audience"]),
        (json!({"type": "mtls", "certificate": "x", "private_key": "x"}), vec!["auth.certificate"]),
    ] {
        assert_eq!(invalid_fields(&value), fields, "{value}");
    }
}

#[test]
fn a_certificate_must_be_valid_and_fit_its_key() {
    let (certificate, key) = self_signed(2100);
    let mtls = |certificate: &str, key: &str| {
        read_one(&json!({"type": "mtls", "certificate": certificate, "private_key": key}))
    };
    assert!(mtls(&certificate, &key).is_ok());
    for (certificate, key, field) in
        [(self_signed(2001).0, &key, "auth.certificate"), (certificate, &self_signed(2100).1, "auth.private_key")]
    {
        let errors = mtls(&certificate, key).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, field);
        assert!(!errors[0].reason.contains("BEGIN"), "{errors:?}");
    }
}

#[test]
fn a_refusal_repeats_no_secret() {
    let secret = "hush\u{1}hush";
    for value in [
        json!({"type": "basic", "username": secret, "password": secret}),
        json!({"type": "bearer", "token": secret}),
        json!({"type": "oauth2", "token_url": "https://id.example/", "client_id": secret, "client_secret": secret}),
        json!({"type": "mtls", "certificate": secret, "private_key": secret}),
        json!({"type": secret}),
    ] {
        let errors = read_one(&value).unwrap_err();
        assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().contains("hush")), "{errors:?}");
    }
}
