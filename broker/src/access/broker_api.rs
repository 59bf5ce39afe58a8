//! The commands of `$CONTROL/broker/v1`: what the broker consists of, for who comes from Mosquitto. They change nothing.

use serde_json::{Value, json};
use veilmq_config::{BrokerConfig, ListenerConfig, ListenerProtocol};

use super::Listeners;
use super::dynamic_security::{Done, NO_COMMAND, Outcome, answer_each};

/// Answers commands of a broker with these listeners.
pub(super) fn answer(payload: &[u8], listeners: &Listeners) -> Vec<u8> {
    let perform = |name: &str| -> Outcome {
        match name {
            "listListeners" => Ok(Done::Data(json!({ "listeners": list(listeners) }))),
            "listPlugins" => Ok(Done::Data(json!({ "plugins": plugins(&listeners.config) }))),
            _ => Err(NO_COMMAND),
        }
    };
    answer_each(payload, |_, name, _| perform(name)).into_payload()
}

/// Lists the listeners. One for all interfaces has no address, as in Mosquitto, and is one for both versions of IP.
fn list(listeners: &Listeners) -> Value {
    let mut listed: Vec<Value> = Vec::new();
    for entry in listeners.present().map(listener) {
        if entry.get("bind-address").is_some() || listed.last() != Some(&entry) {
            listed.push(entry);
        }
    }
    listed.into()
}

fn listener(listener: &ListenerConfig) -> Value {
    let protocol = match listener.protocol {
        ListenerProtocol::Mqtt => "mqtt",
        ListenerProtocol::WebSocket => "mqtt+websockets",
        ListenerProtocol::HttpApi => "httpapi",
    };
    let tls = listener.tls.is_some();
    match (listener.address.tcp(), listener.address.unix()) {
        (Some(address), _) if address.ip().is_unspecified() => {
            json!({ "port": address.port(), "protocol": protocol, "tls": tls })
        }
        (Some(address), _) => json!({
            "port": address.port(),
            "bind-address": address.ip().to_string(),
            "protocol": protocol,
            "tls": tls,
        }),
        (None, path) => json!({
            "port": 0,
            "socket-path": path.map(|path| path.display().to_string()),
            "protocol": protocol,
            "tls": tls,
        }),
    }
}

/// What Mosquitto has as a plugin and is built in here.
fn plugins(config: &BrokerConfig) -> Value {
    let dynamic_security = config.access.dynamic_security_file.iter().map(
        |_| json!({ "name": "dynamic-security", "control-endpoints": ["$CONTROL/dynamic-security/v1"] }),
    );
    dynamic_security.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_what_stands_for_plugins_are_listed() {
        let listeners = json!([
            {"address": "127.0.0.1:1882"}, {"address": "127.0.0.1:1883"}, {"address": "0.0.0.0:1884"}, {"address": "[::]:1884"},
        ]);
        let listeners = serde_json::from_value(listeners).unwrap();
        let mut config = BrokerConfig { listeners, ..BrokerConfig::default() };
        config.access.dynamic_security_file = Some("ds.json".into());
        let listeners = Listeners { config, gone: vec![0] };
        let ask = |command: &str| -> Value {
            let payload = format!(r#"{{"commands":[{{"command":"{command}","correlationData":"c"}}]}}"#);
            serde_json::from_slice(&answer(payload.as_bytes(), &listeners)).unwrap()
        };

        assert_eq!(
            ask("listListeners")["responses"][0],
            json!({"command": "listListeners", "correlationData": "c", "data": {"listeners": [
                {"port": 1883, "bind-address": "127.0.0.1", "protocol": "mqtt", "tls": false},
                {"port": 1884, "protocol": "mqtt", "tls": false},
            ]}})
        );
        assert_eq!(ask("listPlugins")["responses"][0]["data"]["plugins"][0]["name"], "dynamic-security");
        assert_eq!(
            ask("other")["responses"][0],
            json!({"command": "other", "correlationData": "c", "error": "Unknown command"})
        );
    }
}
