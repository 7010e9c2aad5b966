//! Reads a filter that a client wrote.

use http_server::FieldError;
use serde_json::{Map, Value};

use super::number::Decimal;
use super::payload::Segment;
use super::satisfiable;
use super::{Comparison, Condition, Filter, Node, Scalar, Test};

/// Levels of filters within filters.
const MAX_DEPTH: usize = 8;
const MAX_CONDITIONS: usize = 64;
/// As compact JSON.
const MAX_BYTES: usize = 8192;
/// Values of one `in`.
const MAX_VALUES: usize = 100;
/// Names of one path: no payload is deeper.
const MAX_SEGMENTS: usize = 64;
/// Significant digits that a number with a fraction or an exponent keeps on its way here.
const MAX_DIGITS: usize = 15;
/// Mistakes that are reported at once.
const MAX_ERRORS: usize = 10;

const GROUPS: [&str; 3] = ["all", "any", "not"];
const OPERATORS: [&str; 8] = ["exists", "equals", "in", "prefix", "gt", "gte", "lt", "lte"];

/// Compiles a filter. `field`: where it is in the body, such as `filter`.
///
/// # Errors
/// Each mistake with its place, such as `filter.all[1].gte`; at most ten.
pub(crate) fn read(value: &Value, field: &str) -> Result<Filter, Vec<FieldError>> {
    if value.to_string().len() > MAX_BYTES {
        return Err(vec![FieldError::new(field, format!("must have at most {MAX_BYTES} bytes"))]);
    }
    let mut reader = Reader { conditions: 0, errors: Vec::new() };
    let node = reader.node(value, field, 1);
    if reader.errors.is_empty()
        && let Some(node) = &node
        && let Err(error) = satisfiable::check(node, field)
    {
        reader.errors.push(error);
    }
    match node {
        Some(node) if reader.errors.is_empty() => Ok(Filter(node)),
        _ => Err(reader.errors),
    }
}

struct Reader {
    conditions: usize,
    errors: Vec<FieldError>,
}

impl Reader {
    fn refuse<T>(&mut self, place: &str, reason: impl Into<String>) -> Option<T> {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::new(place, reason));
        }
        None
    }

    /// `None`: a mistake was found.
    fn node(&mut self, value: &Value, place: &str, depth: usize) -> Option<Node> {
        let Some(object) = value.as_object() else {
            return self.refuse(place, "must be an object with all, any, not, or path and an operator");
        };
        if depth > MAX_DEPTH {
            return self.refuse(place, format!("is deeper than {MAX_DEPTH} levels"));
        }
        let Some(group) = GROUPS.into_iter().find(|name| object.contains_key(*name)) else {
            return self.condition(object, place).map(Node::Condition);
        };
        if let Some(other) = object.keys().find(|name| name.as_str() != group) {
            return self.refuse(&format!("{place}.{other}"), format!("must not be beside {group}"));
        }
        let (inner, inside) = (object.get(group)?, format!("{place}.{group}"));
        match group {
            "not" => self.node(inner, &inside, depth + 1).map(|node| Node::Not(Box::new(node))),
            "all" => self.nodes(inner, &inside, depth + 1).map(Node::All),
            _ => self.nodes(inner, &inside, depth + 1).map(Node::Any),
        }
    }

    fn nodes(&mut self, value: &Value, place: &str, depth: usize) -> Option<Vec<Node>> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            return self.refuse(place, "must be a list with at least one filter");
        };
        let read = |(index, value)| self.node(value, &format!("{place}[{index}]"), depth);
        // All are read, so that all mistakes are found.
        let nodes: Vec<Option<Node>> = list.iter().enumerate().map(read).collect();
        nodes.into_iter().collect()
    }

    fn condition(&mut self, object: &Map<String, Value>, place: &str) -> Option<Condition> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            return self.refuse(place, format!("is one too many: a filter has at most {MAX_CONDITIONS} conditions"));
        }
        let Some(path) = object.get("path") else {
            return self.refuse(place, "must have all, any, not, or path and an operator");
        };
        let path = match read_path(path) {
            Ok(path) => Some(path),
            Err(reason) => self.refuse(&format!("{place}.path"), reason),
        };
        let mut tests = Vec::new();
        for (name, value) in object.iter().filter(|(name, _)| *name != "path") {
            match read_test(name, value) {
                Ok(test) => tests.push(test),
                Err(reason) => return self.refuse(&format!("{place}.{name}"), reason),
            }
        }
        if tests.is_empty() {
            return self.refuse(place, format!("must have an operator: {}", OPERATORS.join(", ")));
        }
        Some(Condition { path: path?, tests })
    }
}

fn read_path(value: &Value) -> Result<Vec<Segment>, String> {
    let segments: Vec<Segment> = match value {
        Value::String(text) if text == "$" || text.starts_with("$.") => {
            return Err("starts at the payload, without $; write a member of that name as [\"$\"]".to_owned());
        }
        Value::String(text) => {
            if text.split('.').any(str::is_empty) {
                return Err("must have no empty name between dots; write such a name in a list of names".to_owned());
            }
            text.split('.').map(Segment::new).collect()
        }
        Value::Array(names) => {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            names.ok_or("must be a text, or a list of texts")?.into_iter().map(Segment::new).collect()
        }
        _ => return Err("must be a text, or a list of texts".to_owned()),
    };
    if segments.is_empty() || segments.len() > MAX_SEGMENTS {
        return Err(format!("must have 1 to {MAX_SEGMENTS} names"));
    }
    Ok(segments)
}

fn read_test(name: &str, value: &Value) -> Result<Test, String> {
    let compare = |comparison| -> Result<Test, String> {
        let number = value.as_number().ok_or("must be a number")?;
        Ok(Test::Compare(comparison, read_number(number)?))
    };
    match name {
        "exists" => Ok(Test::Exists(value.as_bool().ok_or("must be true or false")?)),
        "equals" => Ok(Test::In(vec![read_scalar(value)?])),
        "in" => {
            let list = value.as_array().ok_or("must be a list of values")?;
            if !(1..=MAX_VALUES).contains(&list.len()) {
                return Err(format!("must have 1 to {MAX_VALUES} values"));
            }
            list.iter().map(read_scalar).collect::<Result<_, _>>().map(Test::In)
        }
        "prefix" => {
            let text = value.as_str().filter(|text| !text.is_empty());
            Ok(Test::Prefix(text.ok_or("must be a text with at least one character")?.to_owned()))
        }
        "gt" => compare(Comparison::Gt),
        "gte" => compare(Comparison::Gte),
        "lt" => compare(Comparison::Lt),
        "lte" => compare(Comparison::Lte),
        _ => Err(format!("is no operator; the operators are {}", OPERATORS.join(", "))),
    }
}

fn read_scalar(value: &Value) -> Result<Scalar, String> {
    Ok(match value {
        Value::Null => Scalar::Null,
        Value::Bool(flag) => Scalar::Bool(*flag),
        Value::Number(number) => Scalar::Number(read_number(number)?),
        Value::String(text) => Scalar::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => {
            return Err("must be a text, a number, true, false or null".to_owned());
        }
    })
}

/// Whole numbers of 64 bits arrive exactly. Other numbers were an f64 on their way, which keeps 15 digits.
fn read_number(number: &serde_json::Number) -> Result<Decimal, String> {
    let decimal = Decimal::parse(&number.to_string()).ok_or("must be a number")?;
    if number.is_f64() && decimal.significant_digits() > MAX_DIGITS {
        return Err(format!(
            "must have at most {MAX_DIGITS} significant digits; only a whole number of 64 bits may have more"
        ));
    }
    Ok(decimal)
}
