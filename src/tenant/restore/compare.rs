//! What is different between two tables that should be alike, counted.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::pin::{Pin, pin};

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, RowStream};

use super::shape::Shape;
use super::{InstallError, RestoreError, failed};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub same: u64,
    /// There now, and not then.
    pub only_now: u64,
    pub only_then: u64,
    /// The same primary key, and not the same row.
    pub changed: u64,
}

/// Of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub table: String,
    pub counts: Counts,
    /// What is different about its columns; empty where they are alike.
    pub shape: String,
}

impl Difference {
    /// Of what is no table.
    pub fn of_definitions(words: &str) -> Self {
        Self::alone("definitions".to_owned(), words)
    }

    fn alone(table: String, words: &str) -> Self {
        Self { table, counts: Counts::default(), shape: words.to_owned() }
    }

    pub fn is_none(&self) -> bool {
        self.counts == Counts { same: self.counts.same, ..Counts::default() } && self.shape.is_empty()
    }
}

/// Rows of one side: where, and what stands behind FROM there.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub client: &'a Client,
    pub from: &'a str,
}

/// Reads both sides in one order. `shape`: which columns there are, and which of them tell rows apart.
pub async fn compare(shape: &Shape, now: Side<'_>, then: Side<'_>) -> Result<Counts, InstallError> {
    let doing = format!("comparing {}", shape.label());
    let (now, then) = (sorted(shape, now, &doing).await?, sorted(shape, then, &doing).await?);
    let (mut now, mut then) = (pin!(now), pin!(then));
    let mut counts = Counts::default();
    let (mut a, mut b) = (next(now.as_mut(), &doing).await?, next(then.as_mut(), &doing).await?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(counts),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((other, _))) => key.cmp(other),
        };
        match order {
            Ordering::Less => counts.only_now += 1,
            Ordering::Greater => counts.only_then += 1,
            Ordering::Equal if a == b => counts.same += 1,
            Ordering::Equal => counts.changed += 1,
        }
        if order != Ordering::Greater {
            a = next(now.as_mut(), &doing).await?;
        }
        if order != Ordering::Less {
            b = next(then.as_mut(), &doing).await?;
        }
    }
}

/// Of all tables of two places. `by_schema`: tables of the same name are not the same table if their schemas differ.
pub(super) async fn differences(
    now_at: &Client,
    then_at: &Client,
    now: Vec<Shape>,
    then: Vec<Shape>,
    by_schema: bool,
) -> Result<Vec<Difference>, RestoreError> {
    let name = |shape: &Shape| (if by_schema { shape.schema.clone() } else { String::new() }, shape.name.clone());
    let mut both: BTreeMap<_, (Option<Shape>, Option<Shape>)> = BTreeMap::new();
    for shape in now {
        let name = name(&shape);
        both.entry(name).or_default().0 = Some(shape);
    }
    for shape in then {
        let name = name(&shape);
        both.entry(name).or_default().1 = Some(shape);
    }
    let mut all = Vec::new();
    for pair in both.into_values() {
        all.push(match pair {
            (Some(now), Some(then)) => of_both(now_at, then_at, &now, &then).await?,
            (Some(now), None) => Difference::alone(now.label(), "was not there then"),
            (None, Some(then)) => Difference::alone(then.label(), "is not there now"),
            (None, None) => continue,
        });
    }
    Ok(all)
}

async fn of_both(now_at: &Client, then_at: &Client, now: &Shape, then: &Shape) -> Result<Difference, RestoreError> {
    let shape = now.unlike(&then.columns);
    let mut counts = Counts::default();
    if shape.is_empty() {
        let (a, b) = (now.table(), then.table());
        counts = compare(now, Side { client: now_at, from: &a }, Side { client: then_at, from: &b }).await?;
    }
    Ok(Difference { table: now.label(), counts, shape })
}

async fn sorted(shape: &Shape, side: Side<'_>, doing: &str) -> Result<RowStream, InstallError> {
    let (key, row, from) = (shape.identity(), shape.row(), side.from);
    let sql = format!(
        "select k, m from (select {key} as k, md5({row}) as m from {from}) x order by k collate \"C\", m collate \"C\""
    );
    side.client.query_raw(&sql, Vec::<&(dyn ToSql + Sync)>::new()).await.map_err(failed(doing))
}

async fn next(stream: Pin<&mut RowStream>, doing: &str) -> Result<Option<(String, String)>, InstallError> {
    let mut stream = stream;
    let row = stream.try_next().await.map_err(failed(doing))?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
