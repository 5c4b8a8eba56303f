//! Tables, as Markdown that a person can read too.

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|&text| text.to_owned()).collect()],
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Aligns the first column to the left, and the others, which are numbers, to the right.
    pub fn print(&self) {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        println!();
        for (number, row) in self.rows.iter().enumerate() {
            let (mut line, mut rule) = ("|".to_owned(), "|".to_owned());
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                let (cell, dashes) = match column {
                    0 => (format!("{cell:width$}"), format!("{:-<width$} ", "")),
                    _ => (format!("{cell:>width$}"), format!("{:->width$}:", "")),
                };
                line += &format!(" {cell} |");
                rule += &format!(" {dashes}|");
            }
            println!("{line}");
            if number == 0 {
                println!("{rule}");
            }
        }
    }
}

/// Formats seconds as milliseconds.
pub fn milliseconds(seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3)
}
