//! Medians, and tables of text.

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A figure with so many digits behind its point, if it is one.
pub fn show(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// The same for JSON, which has no word for what is not a number.
pub fn number(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

/// Rows under their heads: the first column to the left, the others to the right.
pub fn print(title: &str, heads: &[&str], rows: &[Vec<String>]) {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([heads[at].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text += &if at == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        println!("{}", text.trim_end());
    };
    println!("{title}");
    line(heads.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    println!();
}
