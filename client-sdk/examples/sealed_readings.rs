//! A device that publishes sealed readings and a subscriber that reads them, through any MQTT 5 broker.
//!
//! Start a broker on port 1883, then: `cargo run -p veilmq-client --example sealed_readings [HOST] [PORT]`

use std::{error::Error, time::Duration};

use veilmq_client::{Client, QoS, Received, e2e::MasterSecret};

const SCOPE: &str = "example/line-3/#";
const READINGS: [&str; 3] = ["21.5", "21.7", "22.0"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "localhost".to_owned());
    let port = arguments.next().map_or(Ok(1883), |port| port.parse())?;
    let mut master = [0; 32];
    getrandom::fill(&mut master)?;
    let connect = async |client_id: &str| -> Result<Client, Box<dyn Error>> {
        let builder = Client::builder(&host, port).client_id(client_id);
        Ok(builder.master_scope(SCOPE, MasterSecret::new(&master))?.connect().await?)
    };
    let (device, reader) = (connect("example-press-07").await?, connect("example-reader").await?);

    let mut messages = reader.subscribe(SCOPE).qos(QoS::AtLeastOnce).await?;
    for reading in READINGS {
        device.publish("example/line-3/temperature", reading).qos(QoS::AtLeastOnce).send().await?;
    }
    for _ in READINGS {
        match tokio::time::timeout(Duration::from_secs(5), messages.next()).await? {
            Some(Received::Message(message)) => {
                let text = String::from_utf8_lossy(&message.payload);
                println!("{}: {text} ({:?})", message.topic, message.sealed);
            }
            Some(Received::Refused { topic, error }) => println!("{topic}: refused: {error}"),
            Some(Received::Missed { count }) => println!("{count} messages missed"),
            None => return Err("the connection is closed".into()),
        }
    }
    reader.disconnect().await?;
    device.disconnect().await?;
    Ok(())
}
