//! As much of kustomize as the set-ups use. What it does not know it refuses.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// Kinds without a namespace.
const CLUSTER_SCOPED: [&str; 2] = ["Namespace", "RuntimeClass"];

const KNOWN_KEYS: [&str; 10] = [
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "configurations",
    "generatorOptions",
    "secretGenerator",
    "configMapGenerator",
    "patches",
    "images",
];

pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().expect("a kind")
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

/// Builds the objects of a folder with a `kustomization.yaml`.
pub fn build(folder: &Path) -> Vec<Value> {
    let file = folder.join("kustomization.yaml");
    let mut documents = documents(&read(&file));
    assert_eq!(documents.len(), 1, "{}", file.display());
    let own = documents.remove(0);
    for key in own.as_object().expect("a mapping").keys() {
        assert!(
            KNOWN_KEYS.contains(&key.as_str()),
            "{}: {key}",
            file.display()
        );
    }
    let mut objects = Vec::new();
    for resource in list(&own["resources"]) {
        let path = folder.join(resource.as_str().expect("a path"));
        if path.is_dir() {
            objects.extend(build(&path));
        } else {
            objects.extend(self::documents(&read(&path)));
        }
    }
    for (key, kind, field) in [
        ("secretGenerator", "Secret", "stringData"),
        ("configMapGenerator", "ConfigMap", "data"),
    ] {
        for generator in list(&own[key]) {
            let generated = json!({
                "apiVersion": "v1",
                "kind": kind,
                "metadata": { "name": generator["name"] },
                field: generated_data(folder, generator),
            });
            let same =
                |object: &Value| self::kind(object) == kind && name(object) == name(&generated);
            let before = objects.len();
            objects.retain(|object| !same(object));
            let replaces = objects.len() < before;
            assert_eq!(
                replaces,
                generator["behavior"] == "replace",
                "{}",
                file.display()
            );
            objects.push(generated);
        }
    }
    for patch in list(&own["patches"]) {
        apply_patch(folder, patch, &mut objects);
    }
    for object in &mut objects {
        let is_scoped = !CLUSTER_SCOPED.contains(&kind(object));
        if let (true, Some(namespace)) = (is_scoped, own["namespace"].as_str()) {
            object["metadata"]["namespace"] = namespace.into();
        }
        rename_images(list(&own["images"]), object);
    }
    objects
}

pub fn documents(text: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

/// Sorts objects, and leaves out what builders write in ways of their own: the contents of Secrets,
/// and the hash behind the name of what is generated.
pub fn comparable(mut objects: Vec<Value>) -> Vec<String> {
    let mut hashes = Vec::new();
    for object in &mut objects {
        if ["Secret", "ConfigMap"].contains(&kind(object)) {
            let text = name(object);
            let end = text.len().saturating_sub(10);
            if text.get(..end).is_some_and(|stem| stem.ends_with('-'))
                && text.starts_with("hammal-")
                && !text.ends_with("runtime-config")
            {
                hashes.push(format!("-{}", &text[end..]));
            }
        }
        if kind(object) == "Secret" {
            let fields = object.as_object_mut().expect("a mapping");
            fields.retain(|key, _| !["data", "stringData", "type"].contains(&key.as_str()));
        }
    }
    let mut texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    for text in &mut texts {
        for hash in &hashes {
            *text = text.replace(hash.as_str(), "");
        }
    }
    texts.sort();
    texts
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn generated_data(folder: &Path, generator: &Value) -> Map<String, Value> {
    let mut data = Map::new();
    for file in list(&generator["files"]) {
        let file = file.as_str().expect("a file");
        let (key, path) = file.split_once('=').unwrap_or((file, file));
        data.insert(key.to_owned(), read(&folder.join(path)).into());
    }
    for file in list(&generator["envs"]) {
        for line in read(&folder.join(file.as_str().expect("a file"))).lines() {
            let (key, value) = line.split_once('=').expect("KEY=VALUE");
            data.insert(key.to_owned(), value.into());
        }
    }
    data
}

/// A patch in a file is merged into the object of its kind and name; one in the kustomization is a
/// list of operations (RFC 6902) on its target.
fn apply_patch(folder: &Path, patch: &Value, objects: &mut [Value]) {
    if let Some(path) = patch["path"].as_str() {
        for patch in documents(&read(&folder.join(path))) {
            merge(target(objects, kind(&patch), name(&patch)), &patch);
        }
        return;
    }
    let wanted = &patch["target"];
    let object = target(
        objects,
        wanted["kind"].as_str().expect("a kind"),
        wanted["name"].as_str().expect("a name"),
    );
    for operations in documents(patch["patch"].as_str().expect("a patch")) {
        for operation in list(&operations) {
            apply_operation(object, operation);
        }
    }
}

fn target<'a>(objects: &'a mut [Value], wanted_kind: &str, wanted_name: &str) -> &'a mut Value {
    let found = objects
        .iter_mut()
        .find(|object| kind(object) == wanted_kind && name(object) == wanted_name);
    found.unwrap_or_else(|| panic!("there is no {wanted_kind} {wanted_name} to patch"))
}

fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Array(_)) => panic!("how lists are merged depends on the kind: use operations"),
        (object, value) => *object = value.clone(),
    }
}

fn apply_operation(object: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().expect("a path");
    let (parent, key) = path.rsplit_once('/').expect("a path");
    let parent = object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("{path} is not there"));
    match (operation["op"].as_str(), parent) {
        (Some("add"), Value::Array(items)) if key == "-" => items.push(operation["value"].clone()),
        (Some("add"), Value::Object(fields)) => {
            fields.insert(key.to_owned(), operation["value"].clone());
        }
        (Some("remove"), Value::Object(fields)) => {
            assert!(fields.remove(key).is_some(), "{path} is not there");
        }
        (operation, _) => panic!("{operation:?} at {path}"),
    }
}

/// Renames the images of containers, and that of a SpinApp (`base/spinapp-fields.yaml`).
fn rename_images(images: &[Value], object: &mut Value) {
    let is_app = kind(object) == "SpinApp";
    let mut fields: Vec<&mut Value> = Vec::new();
    if is_app {
        fields.push(&mut object["spec"]["image"]);
    } else if let Some(containers) = object.pointer_mut("/spec/template/spec/containers") {
        let containers = containers.as_array_mut().expect("a list").iter_mut();
        fields.extend(containers.map(|container| &mut container["image"]));
    }
    for field in fields {
        for image in images {
            let now = field.as_str().expect("an image").to_owned();
            let now = now.split('@').next().unwrap_or_default();
            let without_tag = match now.rsplit_once(':') {
                Some((before, tag)) if !tag.contains('/') => before,
                _ => now,
            };
            if image["name"] != without_tag {
                continue;
            }
            let renamed = image["newName"].as_str().expect("a name");
            *field = match (image["newTag"].as_str(), image["digest"].as_str()) {
                (Some(tag), None) => format!("{renamed}:{tag}").into(),
                (None, Some(digest)) => format!("{renamed}@{digest}").into(),
                _ => panic!("an image is named by a tag or a digest"),
            };
        }
    }
}
