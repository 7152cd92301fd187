//! Rows that pgward itself returns: columns, values, and both of the protocol's formats for them.

use bytes::{BufMut, BytesMut};
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};

use super::encode::put;

/// The types that pgward returns, by their numbers in pg_type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Float,
}

impl Kind {
    /// Type number and length; a negative length varies.
    const fn oid(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Integer => (20, 8),
            Self::Float => (701, 8),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

impl Column {
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: Kind::Integer }
    }

    pub const fn float(name: &'static str) -> Self {
        Self { name, kind: Kind::Float }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Text(String),
    Integer(i64),
    Float(f64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Counts past what int8 can say are shown as the most it can say.
macro_rules! integer {
    ($($type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
    )*};
}
integer!(u16, u32, u64, u128, usize);

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Integer(i64::from(yes))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// How values are written: 0 and 1 in the protocol's format codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Binary,
}

/// The formats that `Bind` asks for: none (all text), one for all, or one for each column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formats(pub Vec<Format>);

impl Formats {
    fn of(&self, column: usize) -> Format {
        match self.0.as_slice() {
            [all] => *all,
            each => each.get(column).copied().unwrap_or_default(),
        }
    }

    /// Whether so many formats go with so many columns.
    pub fn fit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }
}

pub fn columns(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    let field = |(at, column): (usize, &Column)| {
        let (oid, length) = column.kind.oid();
        let format = i16::from(formats.of(at) == Format::Binary);
        FieldDescription::new(column.name.to_owned(), 0, 0, oid, length, -1, format)
    };
    put(out, &RowDescription::new(columns.iter().enumerate().map(field).collect()));
}

pub fn row(out: &mut BytesMut, values: &[Value], formats: &Formats) {
    let mut data = BytesMut::new();
    for (at, value) in values.iter().enumerate() {
        match (value, formats.of(at)) {
            (Value::Null, _) => data.put_i32(-1),
            (Value::Text(text), _) => sized(&mut data, text.as_bytes()),
            (Value::Integer(number), Format::Text) => sized(&mut data, number.to_string().as_bytes()),
            (Value::Integer(number), Format::Binary) => sized(&mut data, &number.to_be_bytes()),
            (Value::Float(number), Format::Text) => sized(&mut data, number.to_string().as_bytes()),
            (Value::Float(number), Format::Binary) => sized(&mut data, &number.to_be_bytes()),
        }
    }
    put(out, &DataRow::new(data, i16::try_from(values.len()).unwrap_or(i16::MAX)));
}

fn sized(data: &mut BytesMut, bytes: &[u8]) {
    data.put_i32(i32::try_from(bytes.len()).unwrap_or(0));
    data.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_the_format_that_was_asked_for() {
        let values = [Value::from(258u32), Value::Null, Value::from("x")];
        let mut text = BytesMut::new();
        row(&mut text, &values, &Formats::default());
        assert_eq!(&text[..], b"D\0\0\0\x16\0\x03\0\0\0\x03258\xff\xff\xff\xff\0\0\0\x01x");
        let mut binary = BytesMut::new();
        row(&mut binary, &values, &Formats(vec![Format::Binary]));
        assert_eq!(&binary[7..19], b"\0\0\0\x08\0\0\0\0\0\0\x01\x02");
    }

    #[test]
    fn formats_go_with_all_columns_or_with_each() {
        let formats = |n| Formats(vec![Format::Binary; n]);
        assert!(formats(0).fit(3) && formats(1).fit(3) && formats(3).fit(3));
        assert!(!formats(2).fit(3) && !formats(4).fit(3));
    }

    #[test]
    fn a_count_past_int8_is_the_most_there_is() {
        assert_eq!(Value::from(u64::MAX), Value::Integer(i64::MAX));
    }
}
