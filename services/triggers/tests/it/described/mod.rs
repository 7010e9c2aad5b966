//! Tests made from the OpenAPI document: each runs over all routes that a system describes, so that a new route is
//! tested when it is described, and fails them when they do not know how.

mod bodies;
mod isolation;
mod refusals;
mod secrets;

use reqwest::Method;
use schemas::ids::DeliveryId;
use serde_json::{Value, json};

use crate::api::{Api, Reply};

/// The document that a system serves, with schemas that allow no member that they do not describe.
struct Document(Value);

/// One operation of it.
struct Operation {
    method: Method,
    path: String,
    described: Value,
}

/// Ids of one organization, for the places of paths and bodies.
struct Ids {
    organization: String,
    event: String,
    endpoint: String,
    key: String,
}

impl Ids {
    /// The delivery of the event to the endpoint.
    fn delivery(&self) -> String {
        DeliveryId::of(self.endpoint.parse().unwrap(), self.event.parse().unwrap()).to_string()
    }
}

impl Document {
    async fn of(api: &Api) -> Self {
        let served = api.get("/openapi.json").await.expect(200).json();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/openapi.json");
        let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(served == written, "a system serves what schemas/openapi.json has");
        let mut strict = served;
        for (name, schema) in strict["components"]["schemas"].as_object_mut().unwrap() {
            if name != "Problem" && schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
                schema["additionalProperties"] = json!(false);
            }
        }
        Self(strict)
    }

    fn operations(&self) -> Vec<Operation> {
        let of_item = |(path, item): (&String, &Value)| {
            let operations = item.as_object().unwrap().iter();
            let operation = |(method, described): (&String, &Value)| Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                described: described.clone(),
            };
            operations.map(operation).collect::<Vec<_>>()
        };
        self.0["paths"].as_object().unwrap().iter().flat_map(of_item).collect()
    }

    /// Fails unless the answer's status is described, and its body as it is described.
    #[track_caller]
    fn check(&self, operation: &Operation, reply: &Reply) {
        let name = format!("{}: {} {}", operation.name(), reply.status, reply.text);
        let mut response = &operation.described["responses"][reply.status.to_string()];
        if let Some(reference) = response["$ref"].as_str() {
            response = self.0.pointer(&reference[1..]).unwrap();
        }
        assert!(response.is_object(), "the status is described: {name}");
        for header in response["headers"].as_object().into_iter().flatten().map(|(header, _)| header) {
            let optional = header.starts_with("RateLimit") || header.starts_with("Idempotency");
            assert!(optional || !reply.header(header).is_empty(), "{header} is sent: {name}");
        }
        if reply.status >= 400 {
            let known = operation.described["x-error-codes"].as_array().unwrap();
            let is_probe = operation.path.starts_with("/health");
            assert!(is_probe || known.contains(&reply.json()["error_code"]), "the error code is described: {name}");
        }
        let Some(content) = response["content"].as_object() else {
            assert!(reply.text.is_empty(), "it has no body: {name}");
            return;
        };
        let described = content.get(reply.header("content-type"));
        let schema = &described.unwrap_or_else(|| panic!("the content type is described: {name}"))["schema"];
        let whole = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors: Vec<String> = validator.iter_errors(&reply.json()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "the body is as described: {name}: {errors:#?}");
    }
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The right that a key needs; `Some("")`: any key; `None`: no key can call it.
    fn right(&self) -> Option<&str> {
        let entries = self.described["security"].as_array().unwrap();
        let of_key = entries.iter().find_map(|entry| entry["bearer"].as_array())?;
        Some(of_key.first().and_then(Value::as_str).unwrap_or_default())
    }

    fn needs_operator(&self) -> bool {
        self.described["security"].as_array().unwrap().iter().any(|entry| entry.get("operator").is_some())
    }

    fn tag(&self) -> &str {
        self.described["tags"][0].as_str().unwrap()
    }

    fn has_body(&self) -> bool {
        self.described.get("requestBody").is_some()
    }

    fn has_ids_in_path(&self) -> bool {
        self.path.contains('{')
    }

    /// The path with these ids in its places.
    fn path_with(&self, ids: &Ids) -> String {
        let parameters = self.described["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        in_path.fold(self.path.clone(), |path, parameter| {
            let id = match parameter["schema"]["$ref"].as_str().and_then(|schema| schema.rsplit('/').next()) {
                Some("OrgId") => &ids.organization,
                Some("EventId") => &ids.event,
                Some("EndpointId") => &ids.endpoint,
                Some("KeyId") => &ids.key,
                Some("DeliveryId") => &ids.delivery(),
                // Nobody has one.
                Some("ReplayId") => "00000000-0000-7000-8000-000000000000",
                _ => panic!("{}: no test knows an id for {}", self.name(), parameter["name"]),
            };
            path.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), id)
        })
    }

    /// The example of its JSON body, in which each list of event ids is `event`.
    fn body(&self, event: &str) -> Option<Value> {
        let mut body = self.described["requestBody"]["content"]["application/json"]["example"].clone();
        if let Some(ids) = body.get_mut("event_ids") {
            *ids = json!([event]);
        }
        (!body.is_null()).then_some(body)
    }

    fn query_parameters(&self) -> Vec<&str> {
        let parameters = self.described["parameters"].as_array().into_iter().flatten();
        parameters.filter(|parameter| parameter["in"] == "query").filter_map(|one| one["name"].as_str()).collect()
    }
}

/// A client with an admin key of a new organization of this name.
async fn admin_of(api: &Api, operator_token: &str, name: &str) -> (Api, String) {
    let operator = api.with_key(operator_token);
    let body = json!({"name": name, "tier": "enterprise", "rate_limit_per_minute": 0});
    let created = operator.post("/v1/organizations", &body).await.expect(201).json();
    let organization = created["id"].as_str().unwrap().to_owned();
    let body = json!({"name": "admin of the organization", "role": "admin"});
    let key = operator.post(&format!("/v1/organizations/{organization}/keys"), &body).await.expect(201).json();
    let mut client = api.with_key(key["key"].as_str().unwrap());
    client.org_id = organization;
    (client, key["id"].as_str().unwrap().to_owned())
}
