//! The template of the page: values in `{{name}}`, and parts for some mirrors only, between
//! `<!-- name -->` and `<!-- /name -->`.

use std::borrow::Cow;

/// Replaces each `{{name}}` by its value. A name without a value stays as it is.
pub fn fill<'a>(template: &str, value: impl Fn(&str) -> Option<Cow<'a, str>>) -> String {
    let mut filled = String::with_capacity(template.len().saturating_mul(2));
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        filled.push_str(before);
        let Some((name, after)) = behind.split_once("}}") else {
            filled.push_str("{{");
            rest = behind;
            continue;
        };
        match value(name) {
            Some(value) => filled.push_str(&value),
            None => filled.extend(["{{", name, "}}"]),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// Keeps the parts of this name, without their marks, or removes them.
pub fn choose(template: &str, name: &str, keep: bool) -> String {
    let (start, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let mut chosen = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once(&start) {
        let (part, after) = behind.split_once(&end).unwrap_or((behind, ""));
        chosen.push_str(before);
        if keep {
            chosen.push_str(part);
        }
        rest = after;
    }
    chosen.push_str(rest);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_what_it_knows() {
        let value = |name: &str| (name == "a").then_some(Cow::Borrowed("{{b}}"));
        for (template, filled) in [
            ("", ""),
            ("x {{a}} y {{a}}", "x {{b}} y {{b}}"),
            ("{{b}} {{", "{{b}} {{"),
            ("{{a", "{{a"),
        ] {
            assert_eq!(fill(template, value), filled, "{template}");
        }
    }

    #[test]
    fn keeps_or_removes_every_part() {
        let template = "1<!-- a -->2<!-- /a -->3<!-- a -->4<!-- /a -->5<!-- b -->6<!-- /b -->";
        assert_eq!(choose(template, "a", true), "12345<!-- b -->6<!-- /b -->");
        assert_eq!(choose(template, "a", false), "135<!-- b -->6<!-- /b -->");
    }
}
