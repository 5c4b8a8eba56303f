//! Builds and validates `deploy/kubernetes/` offline: the objects of each set-up against schemas,
//! the names that they refer to, and that they are safe as shipped.
//!
//! | file | what it does |
//! | --- | --- |
//! | `kustomize` | builds a folder, as far as the set-ups here need kustomize |
//! | `schema` | checks an object against the schema of a custom resource |
//! | `clients` | runs the script of the DaemonSet |

mod clients;
mod kustomize;
mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use kustomize::{build, kind, name};

/// The folders that are applied. `base` is not.
const SETUPS: [&str; 11] = [
    "small",
    "production",
    "closed",
    "blob-store",
    "valkey",
    "otel",
    "embedded",
    "embedded-valkey",
    "embedded-blob-store",
    "clients",
    "runtime-class",
];

/// Secrets that the operator makes by hand.
const BY_HAND: [&str; 2] = ["hammal-access", "hammal-blob-store"];

/// Networks that Spin's `private` leaves open and that lead to IPv4 addresses, or to the cloud.
const BESIDE_PRIVATE: [&str; 6] = [
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/23",
    "::ffff:0:0:0/96",
    "168.63.129.16/32",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes")
}

/// Returns a copy of the folder in which the files are made that a reader makes from examples.
fn filled_in() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    copy_folder(&folder(), copy.path());
    for setup in ["valkey", "embedded-valkey"] {
        let folder = copy.path().join(setup);
        for (example, file) in [
            ("runtime-config.example.toml", "runtime-config.toml"),
            ("valkey.example.env", "valkey.env"),
        ] {
            std::fs::copy(folder.join(example), folder.join(file)).expect(example);
        }
    }
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file");
        }
    }
}

/// Returns the objects of each set-up.
fn setups() -> Vec<(&'static str, Vec<Value>)> {
    let files = filled_in();
    let build_one = |setup| (setup, build(&files.path().join(setup)));
    SETUPS.map(build_one).into()
}

/// Returns every value of this key in an object, however deep.
fn values_of<'a>(object: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = object.get(key).into_iter().collect();
    let children: Vec<&Value> = match object {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    found.extend(children.into_iter().flat_map(|child| values_of(child, key)));
    found
}

/// Returns the settings of the mirror that an object sets, in lower case.
fn settings(object: &Value) -> Vec<(String, Value)> {
    let mut lists = values_of(object, "variables");
    lists.extend(values_of(object, "env"));
    let entries = lists.into_iter().filter_map(Value::as_array).flatten();
    entries
        .filter_map(|entry| {
            let name = entry["name"].as_str()?.to_lowercase();
            let is_setting = kind(object) == "SpinApp" || name.starts_with("spin_variable_");
            let name = name.trim_start_matches("spin_variable_").to_owned();
            is_setting.then(|| (name, entry.clone()))
        })
        .collect()
}

/// Returns the runtime configuration of a set-up; `None` where it runs no mirror.
fn runtime_config(objects: &[Value]) -> Option<toml::Table> {
    let secret = objects
        .iter()
        .find(|object| kind(object) == "Secret" && name(object) == "hammal-runtime-config")?;
    let text = secret["stringData"]["runtime-config.toml"].as_str()?;
    Some(text.parse().expect("TOML"))
}

#[test]
fn every_folder_is_a_setup_that_is_tested() {
    let folders = std::fs::read_dir(folder()).expect("the folder");
    let found: BTreeSet<String> = folders
        .map(|entry| entry.expect("an entry").file_name().into_string().unwrap())
        .filter(|name| name != "base")
        .collect();
    assert_eq!(found, SETUPS.map(str::to_owned).into());
}

#[test]
fn custom_resources_match_the_schemas_of_the_operator() {
    for (setup, objects) in setups() {
        let mut checked = 0;
        for object in &objects {
            if let Some(schema) = schema::of(kind(object)) {
                let faults = schema::faults(&schema, object, kind(object));
                assert!(faults.is_empty(), "{setup}: {faults:#?}");
                checked += 1;
            }
        }
        let is_spinkube =
            !setup.starts_with("embedded") && !["clients", "runtime-class"].contains(&setup);
        assert_eq!(checked, if is_spinkube { 2 } else { 0 }, "{setup}");
    }
}

#[test]
fn a_field_that_the_operator_does_not_know_is_found() {
    let objects = build(&folder().join("small"));
    let app = objects.iter().find(|object| kind(object) == "SpinApp");
    let schema = schema::of("SpinApp").expect("the schema");
    for (pointer, wrong) in [
        ("/spec/hostAliases", serde_json::json!([])),
        ("/spec/replicas", serde_json::json!("1")),
        ("/spec/image", Value::Null),
        ("/spec/checks/readiness/httpGet/port", serde_json::json!(80)),
        ("/spec/resources/limits/memory", serde_json::json!(true)),
    ] {
        let mut app = app.expect("a SpinApp").clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        app.pointer_mut(parent).unwrap()[key] = wrong;
        let faults = schema::faults(&schema, &app, "SpinApp");
        assert_eq!(faults.len(), 1, "{pointer}: {faults:?}");
    }
}

/// The core objects, by the schemas of Kubernetes that the package kubernetes-validate of PyPI has.
#[test]
fn core_objects_match_the_schemas_of_kubernetes() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/kubernetes-validate/bin/kubernetes-validate");
    if !program.exists() {
        let required = std::env::var_os("HAMMAL_REQUIRE_CLIENTS").is_some();
        assert!(!required, "{} is missing", program.display());
        println!("skipped: {} is not there", program.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (setup, objects) in setups() {
        let file = folder.path().join(format!("{setup}.yaml"));
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&file, documents.join("\n---\n")).expect("a file");
        let output = Command::new(&program)
            .args(["--kubernetes-version", "1.32", "--strict"])
            .arg(&file)
            .output()
            .expect("kubernetes-validate");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{setup}: {text}");
        let core = objects.iter().filter(|one| schema::of(kind(one)).is_none());
        let passed = text.matches("passed for resource").count();
        assert_eq!(passed, core.count(), "{setup}: {text}");
    }
}

/// Where a real kustomize is at hand, it builds the same.
#[test]
fn kustomize_builds_the_same() {
    let programs: [&[&str]; 2] = [&["kustomize", "build"], &["kubectl", "kustomize"]];
    let works = |program: &&&[&str]| {
        let version = Command::new(program[0])
            .args(["version", "--client"])
            .output();
        version.is_ok_and(|output| !output.stdout.is_empty())
    };
    let Some(program) = programs.iter().find(works) else {
        println!("skipped: neither kustomize nor kubectl is there");
        return;
    };
    let files = filled_in();
    for setup in SETUPS {
        let output = Command::new(program[0])
            .args(&program[1..])
            .arg(files.path().join(setup))
            .output()
            .expect("kustomize");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{setup}: {error}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let theirs = kustomize::comparable(kustomize::documents(&text));
        let ours = kustomize::comparable(build(&files.path().join(setup)));
        assert_eq!(ours, theirs, "{setup}");
    }
}

#[test]
fn every_setting_is_one_of_the_manifest() {
    let manifest = include_str!("../../spin.toml").parse::<toml::Table>();
    let manifest = manifest.expect("spin.toml");
    let declared = manifest["variables"].as_table().expect("variables");
    for (setup, objects) in setups() {
        for (setting, _) in objects.iter().flat_map(settings) {
            assert!(declared.contains_key(&setting), "{setup}: {setting}");
        }
    }
}

#[test]
fn whatever_an_object_names_is_there() {
    for (setup, objects) in setups() {
        let names: BTreeSet<&str> = objects.iter().map(name).collect();
        for object in &objects {
            let references = ["secret", "configMap", "secretKeyRef", "service"]
                .into_iter()
                .flat_map(|key| values_of(object, key))
                .filter(|reference| reference.is_object());
            for reference in references {
                let named = reference["secretName"].as_str();
                let named = named.or(reference["name"].as_str()).expect("a name");
                // The operator makes the Service of a SpinApp, by its name.
                assert!(
                    names.contains(named) || BY_HAND.contains(&named),
                    "{setup}: {} names {named}",
                    name(object)
                );
                assert_ne!(reference["optional"], true, "{setup}: {named} is optional");
            }
            let executor = object["spec"]["executor"].as_str();
            assert!(executor.is_none_or(|name| names.contains(name)), "{setup}");
            let mounts = values_of(object, "volumeMounts").into_iter();
            let volumes = values_of(object, "volumes").into_iter();
            let names = |lists: Vec<&Value>| -> BTreeSet<String> {
                let entries = lists.into_iter().filter_map(Value::as_array).flatten();
                entries.map(|entry| entry["name"].to_string()).collect()
            };
            let (mounted, declared) = (names(mounts.collect()), names(volumes.collect()));
            assert_eq!(mounted, declared, "{setup}: volumes");
        }
    }
}

#[test]
fn every_mirror_closes_private_networks_and_is_not_ready_otherwise() {
    let shipped = include_str!("../../runtime-config.toml").parse::<toml::Table>();
    let shipped = shipped.expect("runtime-config.toml");
    let of = |config: &toml::Table| -> BTreeSet<String> {
        let networks = config["outbound_networking"]["block_networks"].as_array();
        let networks = networks.expect("a list").iter();
        networks
            .map(|network| network.as_str().expect("text").to_owned())
            .collect()
    };
    for (setup, objects) in setups() {
        let mirrors = ["SpinApp", "Deployment"];
        let mirror = objects
            .iter()
            .find(|object| mirrors.contains(&kind(object)) && name(object) == "hammal");
        let Some(mirror) = mirror else {
            assert!(["clients", "runtime-class"].contains(&setup), "{setup}");
            continue;
        };
        let config = runtime_config(&objects).expect("a runtime configuration");
        let blocked = of(&config);
        for network in BESIDE_PRIVATE
            .map(str::to_owned)
            .iter()
            .chain(&of(&shipped))
        {
            assert!(blocked.contains(network), "{setup}: {network} is open");
        }
        assert_eq!(
            config["outbound_http"]["connection_pooling"].as_bool(),
            Some(true)
        );
        // The operator's own way of mounting it is optional.
        assert!(values_of(mirror, "loadFromSecret").is_empty(), "{setup}");
        let volumes = values_of(mirror, "volumes")[0].as_array().expect("volumes");
        let config = volumes.iter().find(|one| one["name"] == "runtime-config");
        assert_eq!(
            config.expect("a volume")["secret"]["optional"],
            false,
            "{setup}"
        );
        let closed = settings(mirror)
            .iter()
            .any(|(name, entry)| name == "private_networks" && entry["value"] == "closed");
        assert!(closed, "{setup}");
        let paths: Vec<&str> = values_of(mirror, "httpGet")
            .iter()
            .filter_map(|probe| probe["path"].as_str())
            .collect();
        assert!(paths.contains(&"/healthz"), "{setup}: {paths:?}");
        assert!(
            paths.contains(&"/readyz?exclude=upstream"),
            "{setup}: {paths:?}"
        );
    }
}

#[test]
fn proxies_are_trusted_only_where_there_is_an_ingress() {
    for (setup, objects) in setups() {
        let trusts = objects
            .iter()
            .flat_map(settings)
            .any(|(name, _)| name == "trusted_proxies");
        let ingress = objects.iter().any(|object| kind(object) == "Ingress");
        assert_eq!(trusts, ingress, "{setup}");
    }
}

/// On WASIp2 a store call blocks the component, so no store beyond the pod's own is shipped for it.
/// Spin's shims have WASIp2; Spin's own container image is 4.1, and the embedded host's runs WASIp3.
#[test]
fn only_hosts_of_wasip3_get_a_store_that_can_be_away() {
    for (setup, objects) in setups() {
        let Some(config) = runtime_config(&objects) else {
            continue;
        };
        let executor = objects
            .iter()
            .find(|object| kind(object) == "SpinAppExecutor");
        let image = executor.and_then(|one| one["spec"]["deploymentConfig"]["spinImage"].as_str());
        let is_shared = config.contains_key("key_value_store");
        assert_eq!(is_shared, setup.ends_with("valkey"), "{setup}");
        let is_embedded = setup.starts_with("embedded");
        assert_eq!(
            image.is_some() || is_embedded,
            is_shared || is_embedded,
            "{setup}"
        );
        assert_eq!(executor.is_none(), is_embedded, "{setup}");
    }
}

/// The pod takes the image's own command, so the paths and ports that it mounts and names have to be
/// the image's.
#[test]
fn the_embedded_pod_is_that_of_the_container_image() {
    let image = include_str!("../../Containerfile");
    let value = |start: &str| {
        let (_, rest) = image.rsplit_once(start).expect(start);
        let end = rest.find([' ', '\n', '"', '\\']).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    let (config, state) = (value("RUNTIME_CONFIG_FILE="), value("\nVOLUME "));
    assert!(image.contains(&format!("\"--state-dir\", \"{state}\"]")));
    let port: u64 = value("\nEXPOSE ").parse().expect("a port");
    assert!(value("SPIN_HTTP_LISTEN_ADDR=").ends_with(&format!(":{port}")));
    let user: u64 = value("\nUSER ").split(':').next().unwrap().parse().unwrap();
    for (setup, objects) in setups() {
        if !setup.starts_with("embedded") {
            continue;
        }
        let is_pod = |object: &&Value| kind(object) == "Deployment" && name(object) == "hammal";
        let spec = &objects.iter().find(is_pod).expect("a Deployment")["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        assert!(container["command"].is_null() && container["args"].is_null());
        assert_eq!(spec["securityContext"]["runAsUser"], user, "{setup}");
        let paths: Vec<&str> = values_of(container, "mountPath")
            .iter()
            .filter_map(|path| path.as_str())
            .collect();
        let folder = Path::new(&config).parent().and_then(Path::to_str);
        assert!(
            paths.contains(&folder.unwrap()) && paths.contains(&&*state),
            "{paths:?}"
        );
        let ports: Vec<u64> = values_of(container, "containerPort")
            .iter()
            .filter_map(|port| port.as_u64())
            .collect();
        let metrics = container["env"].as_array().expect("variables");
        let metrics = metrics.iter().find(|one| one["name"] == "HAMMAL_METRICS");
        let metrics = metrics
            .and_then(|one| one["value"].as_str())
            .expect("an address");
        let metrics: std::net::SocketAddr = metrics.parse().expect("an address");
        assert_eq!(ports, [port, metrics.port().into()], "{setup}");
        let policy = objects
            .iter()
            .find(|object| kind(object) == "NetworkPolicy" && name(object) == "hammal");
        let open: Vec<u64> = values_of(&policy.expect("a policy")["spec"]["ingress"][0], "port")
            .iter()
            .chain(&values_of(
                &policy.expect("a policy")["spec"]["ingress"][1],
                "port",
            ))
            .filter_map(|port| port.as_u64())
            .collect();
        assert_eq!(open, ports, "{setup}");
    }
}

#[test]
fn pods_that_are_described_here_have_no_rights_they_do_not_need() {
    for (setup, objects) in setups() {
        for object in objects {
            let spec = &object["spec"]["template"]["spec"];
            let Some(containers) = spec["containers"].as_array() else {
                continue;
            };
            let name = format!("{setup}: {}", name(&object));
            assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
            for container in containers {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{name}"
                );
                let is_root = spec["securityContext"]["runAsNonRoot"] != true;
                assert_eq!(is_root, setup == "clients", "{name}");
            }
        }
    }
}

#[test]
fn no_image_is_taken_from_where_nodes_may_not_reach() {
    for (setup, objects) in setups() {
        let mut images: Vec<&str> = Vec::new();
        for object in &objects {
            for key in ["image", "spinImage"] {
                images.extend(values_of(object, key).iter().filter_map(|one| one.as_str()));
            }
        }
        for image in images {
            assert!(image.starts_with("REGISTRY/"), "{setup}: {image}");
            assert!(!image.ends_with(":latest"), "{setup}: {image}");
        }
    }
}
