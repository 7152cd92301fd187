//! What row security costs the server: none, the customary policy on a plain setting, and the sealed context.

use std::time::Instant;

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use super::stage::{Stage, Target};
use super::table::{median, print};

/// Statements of one text, so that what goes over the wire and back is shared by many.
const BATCH: usize = 200;

const TABLES: [(&str, &str); 3] = [
    ("bare", "no row security, WHERE tenant_id = 't1' in the text"),
    ("plain", "policy on current_setting('app.tenant_id')"),
    ("sealed", "policy on pgward.tenant()"),
];

const STATEMENTS: [(&str, &str); 3] = [
    ("one row by its key", "select value from {} where id = 7"),
    ("100 rows", "select sum(value) from {}"),
    ("update of a row", "update {} set value = value + 1 where id = 7"),
];

pub fn measure(stage: &Stage, rounds: usize) -> Value {
    eprintln!("row security, {rounds} rounds");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&stage.tenant("pgward", "t1")).await;
        client.batch_execute("set app.tenant_id = 't1'").await.unwrap();
        let (mut table, mut values) = (Vec::new(), Vec::new());
        for (what, statement) in STATEMENTS {
            let mut micros = vec![Vec::new(); TABLES.len()];
            let texts = TABLES.map(|(name, _)| batch(statement, name));
            // In short turns, since the machine may be busy with something else for a while. The first is not counted.
            for turn in 0..=20 * rounds {
                for (text, into) in texts.iter().zip(&mut micros) {
                    let begin = Instant::now();
                    client.batch_execute(text).await.unwrap();
                    if turn > 0 {
                        into.push(begin.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
                    }
                }
            }
            let medians: Vec<f64> = micros.into_iter().map(median).collect();
            table.push(
                [what.to_owned()].into_iter().chain(medians.iter().map(|micros| format!("{micros:.1}"))).collect(),
            );
            for ((name, policy), micros) in TABLES.iter().zip(medians) {
                values.push(json!({ "statement": what, "table": name, "policy": policy, "us_per_statement": micros }));
            }
        }
        let heads = ["us a statement, one client", "no row security", "current_setting", "pgward.tenant()"];
        print("Row security, parsed, planned and run by the server", &heads, &table);
        Value::Array(values)
    })
}

async fn connect(target: &Target) -> Client {
    let url = format!("postgresql://{}:{}@{}/app", target.user, target.password, target.address);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn batch(statement: &str, table: &str) -> String {
    let own = if table != "bare" {
        ""
    } else if statement.contains(" where ") {
        " and tenant_id = 't1'"
    } else {
        " where tenant_id = 't1'"
    };
    format!("{}{own};", statement.replace("{}", table)).repeat(BATCH)
}
