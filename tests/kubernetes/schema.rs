//! Structural schemas of custom resources, as the API server checks them: types, required fields,
//! patterns, and no unknown field.

use serde_json::{Map, Value};

/// Returns the schema of a kind of the operator.
pub fn of(kind: &str) -> Option<Value> {
    let text = match kind {
        "SpinApp" => include_str!("spin-operator/spinapps.json"),
        "SpinAppExecutor" => include_str!("spin-operator/spinappexecutors.json"),
        _ => return None,
    };
    Some(serde_json::from_str(text).expect("a schema"))
}

/// Returns what is wrong with a value; `path` says where it is.
pub fn faults(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64();
        return (!fits)
            .then(|| format!("{path} is no quantity"))
            .into_iter()
            .collect();
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => faults_of_object(schema, fields, path),
        (Some("array"), Value::Array(items)) => {
            let least = schema["minItems"].as_u64().unwrap_or_default();
            let mut found = Vec::new();
            if (items.len() as u64) < least {
                found.push(format!("{path} has fewer than {least} items"));
            }
            let each = items.iter().enumerate();
            found.extend(each.flat_map(|(index, item)| {
                faults(&schema["items"], item, &format!("{path}[{index}]"))
            }));
            found
        }
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) => Vec::new(),
        (Some("integer"), Value::Number(number)) if number.is_i64() => Vec::new(),
        (Some(expected), _) => vec![format!("{path} is no {expected}")],
        (None, _) => panic!("the schema of {path} has no type"),
    }
}

fn faults_of_object(schema: &Value, fields: &Map<String, Value>, path: &str) -> Vec<String> {
    let required = schema["required"].as_array().into_iter().flatten();
    let missing = required
        .filter_map(Value::as_str)
        .filter(|name| !fields.contains_key(*name));
    let mut found: Vec<String> = missing
        .map(|name| format!("{path} has no {name}"))
        .collect();
    let properties = schema["properties"].as_object();
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let known = properties.and_then(|properties| properties.get(name));
        match (known, &schema["additionalProperties"]) {
            (Some(schema), _) => found.extend(faults(schema, value, &path)),
            (None, Value::Null) if properties.is_some() => {
                found.push(format!("{path} is unknown"));
            }
            // `metadata` is checked by the API server itself.
            (None, Value::Null) => {}
            (None, schema) => found.extend(faults(schema, value, &path)),
        }
    }
    found
}
