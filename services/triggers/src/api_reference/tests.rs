use std::path::Path;

use serde_json::{Value, json};

use super::page::page;
use crate::documents::replace_file;
use crate::roles::api_description;

/// Writes or compares a generated file.
fn check(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("WRITE_DOCS").is_some() {
        replace_file(&path, expected);
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == expected, "{} differs from the code; run: make docs", path.display());
}

#[test]
fn documents_match_the_openapi_document_of_the_code() {
    let document = api_description();
    check("schemas/openapi.json", &format!("{document:#}\n"));
    check("docs/http-api.md", &page(&document));
}

#[test]
fn every_operation_says_all_that_a_client_needs() {
    let document = api_description();
    let mut ids = std::collections::BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let name = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_default();
        assert!(ids.insert(id.to_owned()) && !id.is_empty(), "{name} has an operation id of its own: {id}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name} has a summary");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name} has one tag");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let text = parameter["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{name}: {} has a description", parameter["name"]);
        }
        for code in operation["x-error-codes"].as_array().unwrap() {
            let is_known = http_server::ERROR_CODES.iter().any(|known| code == known.code);
            assert!(is_known, "{name}: {code} is in the list of error codes");
        }
    }
    assert!(ids.len() > 30, "all routes are described: {}", ids.len());
}

#[test]
fn every_example_conforms_to_its_schema() {
    let document = api_description();
    let mut checked = 0;
    for (path, method, operation) in operations(&document) {
        let bodies = operation["responses"].as_object().unwrap().values().chain([&operation["requestBody"]]);
        for content in bodies.flat_map(|body| body["content"].as_object().into_iter().flat_map(|map| map.values())) {
            let name = format!("{method} {path}");
            assert!(
                content.get("example").is_some() || is_without_example(content),
                "{name} has an example: {content}"
            );
            if let Some(example) = content.get("example") {
                conforms(&document, &content["schema"], example, &name);
                checked += 1;
            }
        }
    }
    for response in document["components"]["responses"].as_object().unwrap().values() {
        let content = &response["content"]["application/problem+json"];
        for example in content["examples"].as_object().unwrap().values() {
            conforms(&document, &content["schema"], &example["value"], "an error");
            checked += 1;
        }
    }
    assert!(checked > 60, "examples were checked: {checked}");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = api_description();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 100, "the document has references: {}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_default();
        assert!(document.pointer(pointer).is_some(), "{reference} leads somewhere");
    }
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// Lists and alternatives have the examples of their items; lines of NDJSON are no JSON.
fn is_without_example(content: &Value) -> bool {
    content["schema"].get("$ref").is_none() || content["schema"]["$ref"] == "#/components/schemas/EventOrBatch"
}

fn conforms(document: &Value, schema: &Value, example: &Value, name: &str) {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": document["components"],
    });
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> = validator.iter_errors(example).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: the example {example} does not conform: {errors:#?}");
}

fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let items = document["paths"].as_object().unwrap();
    items
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}
