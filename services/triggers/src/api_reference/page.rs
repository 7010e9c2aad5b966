//! `docs/http-api.md`, from the OpenAPI document.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];
/// Codes that every route may answer with. They are in a table of their own.
const COMMON: usize = 6;

/// The whole page.
pub(super) fn page(document: &Value) -> String {
    let mut page = String::from("# HTTP API\n\n");
    page += "This page is generated from the code: run `make docs` after a change. A running system has the same as\n";
    page += "OpenAPI 3.1 at `/openapi.json` and as a page at `/docs`; in this repository it is\n";
    page += "[schemas/openapi.json](../schemas/openapi.json).\n\n";
    paragraphs(&mut page, text(&document["info"]["description"]));
    for tag in list(&document["tags"]) {
        writeln!(page, "\n## {}\n", text(&tag["name"])).unwrap();
        paragraphs(&mut page, text(&tag["description"]));
        for (path, item) in object(&document["paths"]) {
            for (method, operation) in METHODS.iter().filter_map(|method| Some((method, item.get(*method)?))) {
                if operation["tags"][0] == tag["name"] {
                    self::operation(&mut page, document, method, path, operation);
                }
            }
        }
    }
    page += "\n## Shapes\n";
    for (name, schema) in object(&document["components"]["schemas"]) {
        shape(&mut page, name, schema);
    }
    errors(&mut page, document);
    page
}

fn operation(page: &mut String, document: &Value, method: &str, path: &str, operation: &Value) {
    writeln!(page, "\n### `{} {path}`\n", method.to_uppercase()).unwrap();
    let summary = text(&operation["summary"]);
    paragraphs(page, &format!("{summary}. {}", text(&operation["description"])));
    writeln!(page, "\nWho: {}.", callers(operation)).unwrap();
    let parameters = list(&operation["parameters"]);
    if !parameters.is_empty() {
        page.push_str("\n| parameter | in | type | meaning |\n| --- | --- | --- | --- |\n");
        for parameter in parameters {
            let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
            let kind = kind(&parameter["schema"]);
            writeln!(page, "| `{name}` | {place} | {kind} | {} |", cell(&parameter["description"])).unwrap();
        }
    }
    let mut shown = Vec::new();
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        body(page, "Body", content, &mut shown);
    }
    for (status, response) in object(&operation["responses"]).filter(|(_, response)| response.get("$ref").is_none()) {
        writeln!(page, "\n**{status}** {}", text(&response["description"]).replace('\n', " ")).unwrap();
        if let Some(content) = response["content"].as_object() {
            body(page, "Shape", content, &mut shown);
        }
    }
    let own = own_errors(document, operation);
    if !own.is_empty() {
        writeln!(page, "\nErrors of its own: {}.", own.join(", ")).unwrap();
    }
}

fn callers(operation: &Value) -> String {
    let mut callers: Vec<String> = Vec::new();
    for entry in list(&operation["security"]) {
        let caller = match (entry.get("operator"), entry["bearer"].as_array()) {
            (Some(_), _) => "the operator".to_owned(),
            (None, Some(rights)) if rights.is_empty() => "any key".to_owned(),
            (None, Some(rights)) => format!("a key that may {}", text(&rights[0])),
            (None, None) => continue,
        };
        callers.push(caller);
    }
    if callers.is_empty() { "nobody is asked for a key".to_owned() } else { callers.join(", or ") }
}

/// The shapes of a body, and an example that was not shown before.
fn body(page: &mut String, word: &str, content: &Map<String, Value>, shown: &mut Vec<Value>) {
    let shapes: Vec<String> = content
        .iter()
        .map(|(media_type, body)| {
            let kind = kind(&body["schema"]);
            if media_type == "application/json" { kind } else { format!("{kind} as `{media_type}`") }
        })
        .collect();
    match shapes.as_slice() {
        [shape] => writeln!(page, "\n{word}: {shape}").unwrap(),
        shapes => {
            writeln!(page, "\n{word}, one of:\n").unwrap();
            shapes.iter().for_each(|shape| writeln!(page, "- {shape}").unwrap());
        }
    }
    let json = &content.get("application/json").or_else(|| content.values().next()).unwrap_or(&Value::Null)["example"];
    if !json.is_null() && !shown.contains(json) {
        shown.push(json.clone());
        writeln!(page, "\n```json\n{}\n```", readable(json, 0)).unwrap();
    }
}

/// JSON in lines of at most 100 characters.
fn readable(value: &Value, indent: usize) -> String {
    let flat = value.to_string();
    if indent + flat.len() <= 100 {
        return flat;
    }
    let (inner, outer) = (" ".repeat(indent + 2), " ".repeat(indent));
    let lines: Vec<String> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("\"{name}\": {}", readable(value, indent + 2))).collect()
        }
        Value::Array(items) => items.iter().map(|item| readable(item, indent + 2)).collect(),
        _ => return flat,
    };
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    format!("{open}\n{inner}{}\n{outer}{close}", lines.join(&format!(",\n{inner}")))
}

fn shape(page: &mut String, name: &str, schema: &Value) {
    writeln!(page, "\n### {name}\n").unwrap();
    let description = text(&schema["description"]);
    if !description.is_empty() {
        paragraphs(page, description);
        page.push('\n');
    }
    let properties: Vec<_> = object(&schema["properties"]).collect();
    if properties.is_empty() {
        writeln!(page, "{}", kind(schema)).unwrap();
        return;
    }
    let required: Vec<&str> = list(&schema["required"]).iter().map(text).collect();
    page.push_str("| member | type | meaning |\n| --- | --- | --- |\n");
    for (member, schema) in properties {
        let optional = if required.contains(&member.as_str()) { "" } else { ", optional" };
        writeln!(page, "| `{member}` | {}{optional} | {} |", kind(schema), cell(&schema["description"])).unwrap();
    }
}

/// A type in words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for word in ["oneOf", "anyOf", "allOf"] {
        if schema.get(word).is_some() {
            let kinds: Vec<String> = list(&schema[word]).iter().map(kind).collect();
            return kinds.join(" or ");
        }
    }
    if schema.get("enum").is_some() {
        let names: Vec<String> = list(&schema["enum"]).iter().map(|name| format!("`{}`", text(name))).collect();
        return names.join(", ");
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        many => list(many).iter().map(text).collect(),
    };
    let words = types.into_iter().map(|name| match name {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object with values: {}", kind(&schema["additionalProperties"]))
        }
        "string" => text_kind(schema),
        "integer" | "number" => format!("{name}{}", range(schema, "minimum", "maximum", "")),
        name => name.to_owned(),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "any JSON".to_owned() } else { words.join(" or ") }
}

fn text_kind(schema: &Value) -> String {
    let format = schema["format"].as_str().map(|format| format!(" ({format})")).unwrap_or_default();
    format!("string{format}{}", range(schema, "minLength", "maxLength", " characters"))
}

fn range(schema: &Value, low: &str, high: &str, unit: &str) -> String {
    match (schema.get(low), schema.get(high)) {
        (Some(low), Some(high)) => format!(", {low} to {high}{unit}"),
        (Some(low), None) => format!(", at least {low}{unit}"),
        (None, Some(high)) => format!(", at most {high}{unit}"),
        (None, None) => String::new(),
    }
}

/// The errors that few routes have.
fn own_errors(document: &Value, operation: &Value) -> Vec<String> {
    let is_common = |code: &str| users_of(document, code) > COMMON;
    let codes = list(&operation["x-error-codes"]).iter().map(text).filter(|code| !is_common(code));
    codes.map(|code| format!("`{code}`")).collect()
}

fn users_of(document: &Value, code: &str) -> usize {
    let items = object(&document["paths"]).map(|(_, item)| item);
    let operations = items.flat_map(|item| METHODS.iter().filter_map(|method| item.get(*method)));
    operations.filter(|operation| list(&operation["x-error-codes"]).iter().any(|known| known == code)).count()
}

fn errors(page: &mut String, document: &Value) {
    page.push_str("\n## Error codes\n\n| code | status | when |\n| --- | --- | --- |\n");
    for code in http_server::ERROR_CODES {
        writeln!(page, "| `{}` | {} | {} |", code.code, code.status, code.meaning).unwrap();
    }
    page.push_str("\nAn error in full:\n\n```json\n");
    page.push_str(&readable(&document["components"]["schemas"]["Problem"]["example"], 0));
    page.push_str("\n```\n");
}

/// Writes paragraphs in lines of at most 120 characters.
fn paragraphs(page: &mut String, text: &str) {
    for (index, paragraph) in text.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).enumerate() {
        if index > 0 {
            page.push('\n');
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > 120 {
                writeln!(page, "{line}").unwrap();
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        writeln!(page, "{line}").unwrap();
    }
}

fn cell(value: &Value) -> String {
    text(value).replace('|', "\\|").replace('\n', " ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
