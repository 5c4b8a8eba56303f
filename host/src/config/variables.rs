//! Resolves the manifest's variables from all sources of values, and expands `{{ templates }}`.

use crate::config::runtime_config::VariablesProvider;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A variable in the manifest's `[variables]`. It has a default or is required.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "keys that are accepted and have no effect")]
pub struct Variable {
    /// `None` if the variable is required.
    pub default: Option<String>,
    /// Whether a value must be given.
    #[serde(default)]
    pub required: bool,
    /// Accepted, without effect: this host never prints a value.
    #[serde(default)]
    secret: bool,
    description: Option<String>,
}

/// Checks that a variable's name consists of lower-case letters, digits and single underscores
/// between them, and starts with a letter.
pub fn check_name(name: &str) -> Result<()> {
    let starts_with_a_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    let characters = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(
        starts_with_a_letter && characters && !name.ends_with('_') && !name.contains("__"),
        "a variable's name consists of lower-case letters, digits and single underscores, as in \"connect_timeout\""
    );
    Ok(())
}

/// Parses the value of `--variable`: `NAME=VALUE`, or `NAME=@FILE` to read the value from a file.
pub fn parse_assignment(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(
            "write it as NAME=VALUE, or NAME=@FILE to read the value from a file".to_owned(),
        );
    };
    check_name(name).map_err(|error| error.to_string())?;
    let value = match value.strip_prefix('@') {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| format!("can't read {file}: {error}"))?
        }
        None => value.to_owned(),
    };
    Ok((name.to_owned(), value))
}

/// The value of each variable in the manifest, by name. Values don't change while the host runs.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Gives each declared variable the first value found: in `assigned` (the command line), a
    /// provider, `SPIN_VARIABLE_<NAME>` of `environment`, its default. Fails if a required variable
    /// has no value, or `assigned` has a name that is not declared.
    pub fn resolve(
        declared: &BTreeMap<String, Variable>,
        assigned: &[(String, String)],
        providers: &[VariablesProvider],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        if let Some((name, _)) = assigned
            .iter()
            .find(|(name, _)| !declared.contains_key(name))
        {
            let known: Vec<&str> = declared.keys().map(String::as_str).collect();
            bail!(
                "--variable {name}: the manifest has no such variable; it has: {}",
                known.join(", ")
            );
        }
        let from_environment =
            |prefix: &str, name: &str| environment(&format!("{prefix}_{}", name.to_uppercase()));
        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, variable) in declared {
            let assigned = assigned
                .iter()
                .rev()
                .find(|(assigned, _)| assigned == name)
                .map(|(_, value)| value.clone());
            let provided = || {
                providers.iter().find_map(|provider| match provider {
                    VariablesProvider::Static { values } => values.get(name).cloned(),
                    VariablesProvider::Env { prefix } => from_environment(prefix, name),
                })
            };
            let value = assigned
                .or_else(provided)
                .or_else(|| from_environment("SPIN_VARIABLE", name))
                .or_else(|| variable.default.clone());
            match value {
                Some(value) => drop(values.insert(name.clone(), value)),
                None => missing.push(name.as_str()),
            }
        }
        if let Some(first) = missing.first() {
            bail!(
                "required variables have no value: {}; give each one with --variable {first}=VALUE or SPIN_VARIABLE_{}",
                missing.join(", "),
                first.to_uppercase()
            );
        }
        Ok(Self(values))
    }

    /// Replaces each `{{ name }}` in `template` by the variable's value. Fails on an unknown
    /// variable and on a `{{` without `}}`.
    pub fn expand(&self, template: &str) -> Result<String> {
        let mut expanded = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((literal, after)) = rest.split_once("{{") {
            let (name, after) = after
                .split_once("}}")
                .with_context(|| format!("template {template:?} has a `{{{{` without `}}}}`"))?;
            let name = name.trim();
            let value = self
                .0
                .get(name)
                .with_context(|| format!("template {template:?} uses unknown variable {name:?}"))?;
            expanded.push_str(literal);
            expanded.push_str(value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(default: Option<&str>) -> BTreeMap<String, Variable> {
        let variable = match default {
            Some(default) => format!("upstream = {{ default = {default:?} }}"),
            None => "upstream = { required = true }".to_owned(),
        };
        toml::from_str(&variable).unwrap()
    }

    #[test]
    fn takes_the_value_from_the_first_source_that_has_one() {
        let assigned = [("upstream".to_owned(), "flag".to_owned())];
        let fixed = VariablesProvider::Static {
            values: BTreeMap::from([("upstream".into(), "fixed".into())]),
        };
        let env = VariablesProvider::Env {
            prefix: "MY".into(),
        };
        let environment = |name: &str| match name {
            "SPIN_VARIABLE_UPSTREAM" => Some("spin".to_owned()),
            "MY_UPSTREAM" => Some("my".to_owned()),
            _ => None,
        };
        let none = |_: &str| None;
        let value =
            |variables: Result<Variables>| variables.unwrap().expand("{{upstream}}").unwrap();
        let declared = declared(Some("default"));
        let both = [fixed, env];
        assert_eq!(
            value(Variables::resolve(&declared, &assigned, &both, environment)),
            "flag"
        );
        assert_eq!(
            value(Variables::resolve(&declared, &[], &both, environment)),
            "fixed"
        );
        assert_eq!(
            value(Variables::resolve(&declared, &[], &both[1..], environment)),
            "my"
        );
        assert_eq!(
            value(Variables::resolve(&declared, &[], &[], environment)),
            "spin"
        );
        assert_eq!(
            value(Variables::resolve(&declared, &[], &[], none)),
            "default"
        );
    }

    #[test]
    fn suggests_how_to_set_a_required_variable() {
        let error = Variables::resolve(&declared(None), &[], &[], |_| None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--variable upstream=VALUE") && error.contains("SPIN_VARIABLE_UPSTREAM"),
            "{error}"
        );
    }

    #[test]
    fn names_the_known_variables_beside_an_unknown_one() {
        let assigned = [("upsteam".to_owned(), String::new())];
        let error = Variables::resolve(&declared(Some("")), &assigned, &[], |_| None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("upsteam") && error.contains("it has: upstream"),
            "{error}"
        );
    }

    #[test]
    fn expands_templates() {
        let variables = Variables(BTreeMap::from([
            ("a".into(), "1".into()),
            ("b".into(), "{{a}}".into()),
        ]));
        for (template, expanded) in [
            ("", ""),
            ("x", "x"),
            ("{{ a }}{{a}}", "11"),
            ("x-{{ b }}-}}", "x-{{a}}-}}"),
        ] {
            assert_eq!(variables.expand(template).unwrap(), expanded);
        }
        for template in ["{{ a", "{{ c }}", "{{}}"] {
            assert!(variables.expand(template).is_err(), "{template}");
        }
    }

    #[test]
    fn parses_assignments() {
        assert_eq!(parse_assignment("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_assignment("a="), Ok(("a".into(), String::new())));
        for bad in [
            "a",
            "=b",
            "A=b",
            "a-b=c",
            "a__b=c",
            "a_=c",
            "a=@/nowhere/at/all",
        ] {
            assert!(parse_assignment(bad).is_err(), "{bad}");
        }
    }
}
