//! The script that `clients` runs on each node, in folders of the test.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::kustomize::{build, kind};

/// The script, with the folders of the container in `root`.
fn script(root: &Path) -> String {
    let objects = build(&crate::folder().join("clients"));
    let set = objects.iter().find(|object| kind(object) == "DaemonSet");
    let command =
        &set.expect("a DaemonSet")["spec"]["template"]["spec"]["containers"][0]["command"];
    let mut script = command[2].as_str().expect("a script").to_owned();
    for folder in ["/hosts/", "/written/", "/certs.d/"] {
        assert!(script.contains(folder), "{folder}");
        script = script.replace(folder, &format!("{}{folder}", root.display()));
    }
    script
}

fn wait_for(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the script as the kubelet does.
fn end(mut child: Child) {
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a process");
    wait_for("the script does not end", || {
        rustix::process::test_kill_process(id).is_err()
            || std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero()))
                .is_ok_and(|stat| stat.contains(") Z "))
    });
    assert!(child.wait().expect("a status").success());
    // Its sleep is in its group.
    let _ = rustix::process::kill_process_group(id, rustix::process::Signal::TERM);
}

#[test]
fn nodes_get_the_hosts_file_of_clients_and_keep_their_own() {
    let objects = build(&crate::folder().join("clients"));
    let map = objects.iter().find(|object| kind(object) == "ConfigMap");
    let shipped = include_str!("../../deploy/clients/hosts.toml");
    assert_eq!(map.expect("a ConfigMap")["data"]["docker.io"], shipped);

    let root = tempfile::tempdir().expect("a folder");
    let at = |path: &str| root.path().join(path);
    for folder in ["hosts", "written", "certs.d/quay.io"] {
        std::fs::create_dir_all(at(folder)).expect("a folder");
    }
    for registry in ["docker.io", "quay.io"] {
        std::fs::write(at(&format!("hosts/{registry}")), shipped).expect("a file");
    }
    std::fs::write(at("certs.d/quay.io/hosts.toml"), "somebody else's").expect("a file");
    let read = |registry: &str| {
        std::fs::read_to_string(at(&format!("certs.d/{registry}/hosts.toml"))).ok()
    };
    // Twice: the second finds what the first wrote where that was killed.
    for is_killed in [true, false] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script(root.path())]).process_group(0);
        let mut child = shell.spawn().expect("sh");
        wait_for("no hosts.toml", || {
            read("docker.io").is_some() && at("written/docker.io").exists()
        });
        assert_eq!(read("docker.io").as_deref(), Some(shipped));
        assert_eq!(read("quay.io").as_deref(), Some("somebody else's"));
        assert!(!at("written/quay.io").exists());
        if is_killed {
            let id = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
            child.wait().expect("a status");
            std::fs::remove_file(at("written/docker.io")).expect("an emptyDir is emptied");
        } else {
            // Time to get behind the loop, to its sleep.
            std::thread::sleep(Duration::from_millis(300));
            end(child);
        }
    }
    assert_eq!(read("docker.io"), None);
    assert_eq!(read("quay.io").as_deref(), Some("somebody else's"));
}
