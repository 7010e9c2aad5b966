//! Adds to each described route what all routes have in common.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::RUNNING;
use super::error_codes::{ERROR_CODES, ErrorCode, find};

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];
/// Of every route.
const ALWAYS: &[&str] = &[
    "invalid_request",
    "misdirected_request",
    "too_much_at_once",
    "headers_too_large",
    "internal_error",
    "too_many_connections",
    "unavailable",
];
/// Of every route that needs a key or the operator token.
const WITH_CREDENTIALS: &[&str] = &["unauthorized", "forbidden", "rate_limit_exceeded", "rate_limited"];
/// Of every route that reads a body.
const WITH_BODY: &[&str] = &[
    "invalid_json",
    "invalid_encoding",
    "incomplete_body",
    "request_timeout",
    "payload_too_large",
    "unsupported_media_type",
];

pub(super) fn complete(document: &mut Value) {
    let paths = std::mem::take(&mut document["paths"]);
    let mut shared = SharedResponses::default();
    let mut completed = Map::new();
    for (path, mut item) in paths.as_object().cloned().unwrap_or_default() {
        let mut is_at_root = false;
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                is_at_root = operation["tags"].as_array().is_some_and(|tags| tags.contains(&json!(RUNNING)));
                complete_operation(operation, &path, &mut shared);
            }
        }
        completed.insert(if is_at_root { path } else { format!("/v1{path}") }, item);
    }
    document["paths"] = Value::Object(completed);
    let components = &mut document["components"];
    components["responses"] = json!(shared.0);
    components["headers"] = headers();
    components["securitySchemes"] = security_schemes();
    components["schemas"]["Problem"] = problem_schema();
    require_nullable_members(document);
    let schemas = document["components"]["schemas"].clone();
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                add_examples(operation, &schemas);
            }
        }
    }
}

fn complete_operation(operation: &mut Value, path: &str, shared: &mut SharedResponses) {
    let credentials = expand_security(operation);
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        parameter.get_mut("schema").into_iter().for_each(without_null);
    }
    let mut codes: BTreeSet<String> = strings(&operation["x-error-codes"]);
    codes.extend(ALWAYS.iter().map(ToString::to_string));
    if credentials {
        codes.extend(WITH_CREDENTIALS.iter().map(ToString::to_string));
    }
    if operation.get("requestBody").is_some() {
        codes.extend(WITH_BODY.iter().map(ToString::to_string));
    }
    if path.contains('{') {
        codes.insert("not_found".to_owned());
    }
    operation["x-error-codes"] = json!(codes);
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        add_headers(response, credentials);
    }
    let mut by_status: BTreeMap<u16, Vec<&ErrorCode>> = BTreeMap::new();
    // In the order of the catalogue.
    for code in ERROR_CODES.iter().filter(|code| codes.contains(code.code)) {
        by_status.entry(code.status).or_default().push(code);
    }
    for (status, codes) in by_status {
        // A probe describes its own 503.
        let described = operation["responses"].get(status.to_string()).is_some();
        if !described {
            operation["responses"][status.to_string()] = json!({"$ref": shared.reference(status, &codes)});
        }
    }
}

/// A parameter is absent or has a value; only a body has null.
fn without_null(schema: &mut Value) {
    let of_types =
        schema.get("type").and_then(Value::as_array).and_then(|types| types.iter().find(|name| *name != "null"));
    if let Some(one) = of_types.cloned() {
        schema["type"] = one;
    }
    let alternatives = schema.get("oneOf").and_then(Value::as_array);
    if let Some(one) = alternatives.and_then(|list| list.iter().find(|schema| schema.get("$ref").is_some())).cloned() {
        *schema = one;
    }
}

/// A member of a response that may be null is always there: what can be absent is described as never null.
fn require_nullable_members(document: &mut Value) {
    let mut names = BTreeSet::new();
    for item in document["paths"].as_object().into_iter().flat_map(Map::values) {
        for operation in METHODS.iter().filter_map(|method| item.get(*method)) {
            add_references(&operation["responses"], &mut names);
        }
    }
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    loop {
        let found = names.len();
        for name in names.clone() {
            schemas.get(&name).into_iter().for_each(|schema| add_references(schema, &mut names));
        }
        if names.len() == found {
            break;
        }
    }
    for name in &names {
        if let Some(schema) = schemas.get_mut(name) {
            *schema = with_required(schema.take());
        }
    }
}

fn with_required(mut schema: Value) -> Value {
    let may_be_null = |schema: &Value| {
        schema["type"].as_array().is_some_and(|types| types.contains(&json!("null")))
            || schema["oneOf"].as_array().is_some_and(|list| list.contains(&json!({"type": "null"})))
    };
    let nullable = schema["properties"].as_object().into_iter().flatten().filter(|(_, member)| may_be_null(member));
    let mut required = strings(&schema["required"]);
    required.extend(nullable.map(|(name, _)| name.clone()));
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Adds the names of the schemas to which a value refers.
fn add_references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str().and_then(|text| text.strip_prefix("#/components/schemas/")) {
                    Some(schema) if name == "$ref" => drop(names.insert(schema.to_owned())),
                    _ => add_references(value, names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_references(item, names)),
        _ => {}
    }
}

/// Replaces `key` by the two headers in which a key may be sent. Returns whether the route needs credentials.
fn expand_security(operation: &mut Value) -> bool {
    let required = operation.get_mut("security").map(Value::take).unwrap_or_default();
    let mut expanded = Vec::new();
    for entry in required.as_array().into_iter().flatten() {
        match entry.get("key") {
            Some(right) => expanded.extend([json!({"bearer": right}), json!({"header": right})]),
            None => expanded.push(entry.clone()),
        }
    }
    operation["security"] = Value::Array(expanded);
    operation["security"].as_array().is_some_and(|entries| !entries.is_empty())
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn add_headers(response: &mut Value, credentials: bool) {
    let reference = |name: &str| json!({"$ref": format!("#/components/headers/{name}")});
    for name in ["X-Request-Id", "X-Response-Time"] {
        response["headers"][name] = reference(name);
    }
    for name in ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"].iter().filter(|_| credentials) {
        response["headers"][*name] = reference(name);
    }
}

/// Error responses, each under a name that lists its codes.
#[derive(Default)]
struct SharedResponses(BTreeMap<String, Value>);

impl SharedResponses {
    fn reference(&mut self, status: u16, codes: &[&ErrorCode]) -> String {
        let names: Vec<&str> = codes.iter().map(|code| code.code).collect();
        let name = format!("{status}.{}", names.join("."));
        let reference = format!("#/components/responses/{name}");
        self.0.entry(name).or_insert_with(|| error_response(status, codes));
        reference
    }
}

fn error_response(status: u16, codes: &[&ErrorCode]) -> Value {
    let meanings: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.code, code.meaning)).collect();
    let examples: Map<String, Value> = codes
        .iter()
        .map(|code| (code.code.to_owned(), json!({"summary": code.meaning, "value": problem_example(code)})))
        .collect();
    let mut response = json!({
        "description": meanings.join("\n\n"),
        "content": {"application/problem+json": {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "examples": examples,
        }},
    });
    add_headers(&mut response, false);
    let more = match status {
        401 => &["WWW-Authenticate"][..],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    for name in more {
        response["headers"][*name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
    response
}

fn problem_example(code: &ErrorCode) -> Value {
    let title = http::StatusCode::from_u16(code.status).ok().and_then(|status| status.canonical_reason());
    let mut example = json!({
        "type": format!("urn:triggers:problem:{}", code.code),
        "title": title.unwrap_or("Error"),
        "status": code.status,
        "detail": code.example,
        "instance": "/v1/events",
        "error_code": code.code,
        "message": code.example,
        "error": code.example,
        "request_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    });
    if code.code == "duplicate_event" {
        example["event_id"] = json!("0192f0c1-2345-7abc-8def-0123456789ab");
    }
    example
}

fn problem_schema() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": "An error (RFC 9457). A route may add members of its own, such as event_id.",
        "required": ["type", "title", "status", "detail", "instance", "error_code", "message", "error", "request_id"],
        "properties": {
            "type": text("urn:triggers:problem: and the error code."),
            "title": text("The name of the status."),
            "status": {"type": "integer", "description": "The status.", "minimum": 400, "maximum": 599},
            "detail": text("What is wrong, for a person."),
            "instance": text("The path of the request."),
            "error_code": text("Stable; for programs. The list is in x-error-codes of each route."),
            "message": text("The same text as detail."),
            "error": text("The same text as detail."),
            "request_id": text("Names this request in the logs."),
            "details": {
                "type": "array",
                "description": "Where fields are to blame: which, and why.",
                "items": {
                    "type": "object",
                    "required": ["field", "reason"],
                    "properties": {
                        "field": text("Its name or path, as the client wrote it."),
                        "reason": text("Continues a sentence that begins with the name."),
                    },
                },
            },
        },
        "example": find("invalid_request").map(problem_example),
    })
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({"description": description, "schema": schema});
    let count = || json!({"type": "integer", "minimum": 0});
    json!({
        "X-Request-Id": header("Names this request in the logs; taken from the request if it has one.",
            json!({"type": "string"})),
        "X-Response-Time": header("Time from the request's first byte to its answer, such as 3.2ms.",
            json!({"type": "string"})),
        "RateLimit-Limit": header("Requests in 60 seconds. Absent for an unlimited key.", count()),
        "RateLimit-Remaining": header("Requests that are left.", count()),
        "RateLimit-Reset": header("Seconds until more are left.", count()),
        "Retry-After": header("Seconds to wait before the next request.",
            json!({"type": "integer", "minimum": 1})),
        "WWW-Authenticate": header("How to send a key.", json!({"type": "string"})),
    })
}

fn security_schemes() -> Value {
    json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        "operator": {"type": "http", "scheme": "bearer", "description": "The operator token of the configuration."},
    })
}

/// Copies the example of a body's schema to the body, where readers look for it.
fn add_examples(operation: &mut Value, schemas: &Value) {
    let bodies = std::iter::once("/requestBody/content".to_owned()).chain(
        operation["responses"].as_object().into_iter().flat_map(Map::keys).map(|s| format!("/responses/{s}/content")),
    );
    for pointer in bodies.collect::<Vec<_>>() {
        let contents = operation.pointer_mut(&pointer).and_then(Value::as_object_mut);
        for content in contents.into_iter().flat_map(Map::values_mut) {
            let name = content["schema"]["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
            let example = name.and_then(|name| schemas[name].get("example")).cloned();
            if let (Some(example), None, None) = (example, content.get("example"), content.get("examples")) {
                content["example"] = example;
            }
        }
    }
}
