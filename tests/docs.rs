//! Checks the documents: settings, snippets, files, test names, links, and the Chinese pages
//! against the English ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Words in a paragraph, a list item or a table's cell.
const MAX_WORDS: usize = 100;

/// The pages that exist in Chinese: English, Chinese.
const TRANSLATED: [(&str, &str); 9] = [
    ("README.md", "README.zh-CN.md"),
    ("docs/blob-store.md", "docs/zh-CN/blob-store.md"),
    ("docs/clients.md", "docs/zh-CN/clients.md"),
    ("docs/configuration.md", "docs/zh-CN/configuration.md"),
    ("docs/deployment.md", "docs/zh-CN/deployment.md"),
    ("docs/errors.md", "docs/zh-CN/errors.md"),
    ("docs/kubernetes.md", "docs/zh-CN/kubernetes.md"),
    ("docs/monitoring.md", "docs/zh-CN/monitoring.md"),
    ("docs/troubleshooting.md", "docs/zh-CN/troubleshooting.md"),
];

#[derive(Debug, Default)]
struct Page {
    headings: Vec<Heading>,
    /// Code blocks with fences.
    code: Vec<Code>,
    tables: Vec<Table>,
    /// The text of each paragraph, list item and cell.
    texts: Vec<String>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Heading {
    level: usize,
    text: String,
}

#[derive(Debug)]
struct Code {
    language: String,
    text: String,
}

#[derive(Debug, Default)]
struct Table {
    /// The heading above.
    section: String,
    /// Without the row of the head.
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Default)]
struct Cell {
    text: String,
    code: Vec<String>,
}

#[derive(Debug)]
struct Link {
    target: String,
    /// How many code blocks stand before it.
    code_before: usize,
}

impl Page {
    fn read(path: &str) -> Self {
        let text = read(path);
        let mut page = Self::default();
        // The texts of the blocks that are open; a list item may hold a list.
        let mut open: Vec<String> = Vec::new();
        let mut code: Option<Code> = None;
        let mut cell: Option<Cell> = None;
        let mut in_head = false;
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. } | Tag::Paragraph | Tag::Item) => {
                    open.push(String::new());
                }
                Event::End(TagEnd::Heading(level)) => {
                    let text = open.pop().expect("a heading");
                    let level = level as usize;
                    page.headings.push(Heading { level, text });
                }
                Event::End(TagEnd::Paragraph | TagEnd::Item) => {
                    page.texts.push(open.pop().expect("a text"));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    let (language, text) = (language.into_string(), String::new());
                    code = Some(Code { language, text });
                }
                Event::End(TagEnd::CodeBlock) => page.code.extend(code.take()),
                Event::Start(Tag::Table(_)) => {
                    let section = page.headings.last();
                    page.tables.push(Table {
                        section: section
                            .map(|heading| heading.text.clone())
                            .unwrap_or_default(),
                        rows: Vec::new(),
                    });
                }
                Event::Start(Tag::TableHead) => in_head = true,
                Event::End(TagEnd::TableHead) => in_head = false,
                Event::Start(Tag::TableRow) => {
                    page.tables
                        .last_mut()
                        .expect("a table")
                        .rows
                        .push(Vec::new());
                }
                Event::Start(Tag::TableCell) => cell = Some(Cell::default()),
                Event::End(TagEnd::TableCell) => {
                    let cell = cell.take().expect("a cell");
                    page.texts.push(cell.text.clone());
                    if !in_head {
                        let rows = &mut page.tables.last_mut().expect("a table").rows;
                        rows.last_mut().expect("a row").push(cell);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. }) => page.links.push(Link {
                    target: dest_url.into_string(),
                    code_before: page.code.len(),
                }),
                Event::Text(text) | Event::Code(text) if code.is_some() => {
                    code.as_mut().expect("code").text.push_str(&text);
                }
                Event::Code(text) => {
                    if let Some(cell) = &mut cell {
                        cell.text.push_str(&text);
                        cell.code.push(text.into_string());
                    } else if let Some(open) = open.last_mut() {
                        open.push_str(&text);
                    }
                }
                Event::Text(text) => {
                    if let Some(cell) = &mut cell {
                        cell.text.push_str(&text);
                    } else if let Some(open) = open.last_mut() {
                        open.push_str(&text);
                    }
                }
                Event::SoftBreak | Event::HardBreak => {
                    if let Some(open) = open.last_mut() {
                        open.push(' ');
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// Returns the anchors of the headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen = BTreeMap::new();
        let anchor = |heading: &Heading| {
            let kept = heading.text.to_lowercase();
            let kept = kept.chars().filter_map(|char| match char {
                ' ' => Some('-'),
                '-' | '_' => Some(char),
                char => char.is_alphanumeric().then_some(char),
            });
            let anchor: String = kept.collect();
            let count = seen.entry(anchor.clone()).or_insert(0);
            *count += 1;
            match *count {
                1 => anchor,
                count => format!("{anchor}-{}", count - 1),
            }
        };
        self.headings.iter().map(anchor).collect()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(root().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the files in a folder and below, as paths from the root.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root().join(folder));
    for entry in entries.unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let entry = entry.expect("a file");
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("a name"));
        if entry.path().is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn pages() -> Vec<String> {
    let of_root = [
        "README.md",
        "README.zh-CN.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ];
    let mut pages: Vec<String> = of_root.map(str::to_owned).into();
    pages.extend(
        files("docs")
            .into_iter()
            .filter(|path| path.ends_with(".md")),
    );
    pages
}

/// Returns the path that a link on a page leads to, from the root; `None` where it leads to another
/// site.
fn resolve(page: &str, target: &str) -> Option<PathBuf> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    if target.is_empty() {
        return Some(PathBuf::from(page));
    }
    let mut resolved = PathBuf::new();
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    for component in folder.join(target).components() {
        match component {
            Component::ParentDir => assert!(resolved.pop(), "{page}: {target} is outside"),
            component => resolved.push(component),
        }
    }
    Some(resolved)
}

/// Two Chinese characters are a word.
fn words(text: &str) -> usize {
    let is_chinese = |char: &char| ('\u{3400}'..='\u{9fff}').contains(char);
    let chinese = text.chars().filter(is_chinese).count();
    let rest: String = text
        .chars()
        .map(|char| if is_chinese(&char) { ' ' } else { char })
        .collect();
    let is_word = |word: &&str| word.contains(char::is_alphanumeric);
    chinese.div_ceil(2) + rest.split_whitespace().filter(is_word).count()
}

#[test]
fn no_paragraph_has_more_than_a_hundred_words() {
    for path in pages() {
        for text in Page::read(&path).texts {
            assert!(
                words(&text) <= MAX_WORDS,
                "{path}: {} words: {text}",
                words(&text)
            );
        }
    }
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut dead = Vec::new();
    for path in pages() {
        for link in Page::read(&path).links {
            let (file, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let Some(file) = resolve(&path, file) else {
                continue;
            };
            let is_dead = !root().join(&file).exists()
                || (!anchor.is_empty()
                    && !Page::read(file.to_str().expect("a path"))
                        .anchors()
                        .contains(anchor));
            if is_dead {
                dead.push(format!("{path}: {}", link.target));
            }
        }
    }
    assert!(dead.is_empty(), "dead links: {dead:#?}");
}

#[test]
fn every_page_is_linked_from_another() {
    let linked: BTreeSet<PathBuf> = pages()
        .iter()
        .flat_map(|path| {
            let links = Page::read(path).links.into_iter();
            let files =
                links.map(|link| link.target.split('#').next().unwrap_or_default().to_owned());
            files
                .filter_map(|file| resolve(path, &file))
                .collect::<Vec<_>>()
        })
        .collect();
    for path in pages() {
        assert!(linked.contains(Path::new(&path)), "no page links to {path}");
    }
}

/// The README has some of the files, the page on clients all of them, each behind a link to it.
#[test]
fn snippets_are_the_files_in_deploy() {
    let snippets: BTreeMap<String, String> = files("deploy/clients")
        .into_iter()
        .map(|path| (path.clone(), read(&path)))
        .collect();
    for path in ["docs/clients.md", "docs/zh-CN/clients.md"] {
        let page = Page::read(path);
        let mut shown = BTreeSet::new();
        for link in &page.links {
            let file = resolve(path, &link.target);
            let file = file.as_deref().and_then(Path::to_str).unwrap_or_default();
            if let Some(text) = snippets.get(file) {
                let code = &page
                    .code
                    .get(link.code_before)
                    .unwrap_or_else(|| panic!("{path}: {file}"));
                assert_eq!(code.text.trim_end(), text.trim_end(), "{path}: {file}");
                shown.insert(file.to_owned());
            }
        }
        assert_eq!(shown.len(), snippets.len(), "{path} shows only {shown:?}");
    }
    for path in ["README.md", "README.zh-CN.md"] {
        let code = Page::read(path).code.into_iter();
        let configuration: Vec<_> = code.filter(|code| code.language != "sh").collect();
        assert!(configuration.len() >= 3, "{path} has no snippets");
        for code in configuration {
            let is_a_file = |text: &String| text.trim_end() == code.text.trim_end();
            assert!(snippets.values().any(is_a_file), "{path}: {}", code.text);
        }
    }
}

#[test]
fn each_setting_has_a_heading_and_its_default() {
    let manifest: toml::Table = read("spin.toml").parse().expect("spin.toml");
    let settings = manifest["variables"].as_table().expect("variables");
    for path in ["docs/configuration.md", "docs/zh-CN/configuration.md"] {
        let page = Page::read(path);
        let sections: Vec<_> = page
            .headings
            .iter()
            .filter(|heading| heading.level == 3)
            .map(|heading| &heading.text)
            .collect();
        let unique: BTreeSet<_> = sections.iter().copied().collect();
        assert_eq!(
            unique.len(),
            sections.len(),
            "{path}: a setting has two headings"
        );
        assert_eq!(unique, settings.keys().collect(), "{path}");
        for (name, setting) in settings {
            let table = page.tables.iter().find(|table| table.section == *name);
            let table = table.unwrap_or_else(|| panic!("{path}: {name} has no table"));
            let shown = table.rows[0][1]
                .code
                .first()
                .map(String::as_str)
                .unwrap_or_default();
            assert_eq!(Some(shown), setting["default"].as_str(), "{path}: {name}");
            assert_eq!(
                table.rows.len(),
                3,
                "{path}: {name} has a default, a range and an example"
            );
        }
    }
}

#[test]
fn chinese_pages_have_the_structure_of_the_english_ones() {
    for (english, chinese) in TRANSLATED {
        let (one, other) = (Page::read(english), Page::read(chinese));
        let levels = |page: &Page| {
            page.headings
                .iter()
                .map(|heading| heading.level)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            levels(&one),
            levels(&other),
            "{chinese}: levels of the headings"
        );
        let code = |page: &Page| {
            let code = page.code.iter();
            code.map(|code| (code.language.clone(), without_comments(&code.text)))
                .collect::<Vec<_>>()
        };
        assert_eq!(code(&one), code(&other), "{chinese}: code blocks");
        assert_eq!(
            one.tables.len(),
            other.tables.len(),
            "{chinese}: number of tables"
        );
        for (table, translated) in one.tables.iter().zip(&other.tables) {
            let section = &translated.section;
            assert_eq!(
                table.rows.len(),
                translated.rows.len(),
                "{chinese}: rows of a table in {section}"
            );
            for (row, translated) in table.rows.iter().zip(&translated.rows) {
                assert_eq!(row.len(), translated.len(), "{chinese}: {section}");
                for (cell, translated) in row.iter().zip(translated) {
                    assert_eq!(
                        facts(cell),
                        facts(translated),
                        "{chinese}: {section}: {}",
                        translated.text
                    );
                }
            }
        }
    }
}

/// Returns the parts of a cell that are the same in every language: code, and a number.
fn facts(cell: &Cell) -> Vec<String> {
    let mut facts = cell.code.clone();
    facts.extend(cell.text.parse::<u32>().is_ok().then(|| cell.text.clone()));
    facts.sort();
    facts
}

fn without_comments(code: &str) -> Vec<String> {
    let lines = code.lines().map(|line| match line.split_once("# ") {
        Some((before, _)) if before.is_empty() || before.ends_with(' ') => {
            before.trim_end().to_owned()
        }
        _ => line.trim_end().to_owned(),
    });
    lines.collect()
}

#[test]
fn contributing_says_where_at_least_thirty_behaviours_are() {
    let page = Page::read("CONTRIBUTING.md");
    let table = page
        .tables
        .iter()
        .find(|table| table.section == "Where is it?")
        .expect("the table");
    assert!(table.rows.len() >= 30, "only {} rows", table.rows.len());
    let missing: Vec<_> = table
        .rows
        .iter()
        .flat_map(|row| row[1].text.split(", "))
        .filter(|file| !file.contains('.') || !root().join(file).is_file())
        .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

/// Each row of the table of threats names files and functions that hold a threat off, and the tests
/// of it.
#[test]
fn security_names_files_functions_and_tests_that_exist() {
    let page = Page::read("SECURITY.md");
    let table = page
        .tables
        .iter()
        .find(|table| table.section == "Threats")
        .expect("the table");
    let sources: Vec<String> = files("src").iter().map(|path| read(path)).collect();
    let mut missing = Vec::new();
    for row in &table.rows {
        for name in &row[1].code {
            let is_there = match name.rsplit_once("::") {
                _ if name.ends_with(".rs") => root().join("src").join(name).is_file(),
                Some((_, function)) => sources.iter().any(|text| defines(text, function)),
                None => true,
            };
            missing.extend((!is_there).then(|| name.clone()));
        }
        let mut text = String::new();
        let mut tests = 0;
        for name in &row[2].code {
            if name.ends_with(".rs") {
                let file = std::fs::read_to_string(root().join(name));
                missing.extend(file.is_err().then(|| name.clone()));
                text = file.unwrap_or_default();
            } else {
                tests += 1;
                missing.extend((!defines(&text, name)).then(|| name.clone()));
            }
        }
        assert!(tests > 0, "no test for: {}", row[0].text);
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

fn defines(text: &str, function: &str) -> bool {
    [format!("fn {function}("), format!("fn {function}<")]
        .iter()
        .any(|start| text.contains(start))
}
