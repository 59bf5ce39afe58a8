//! Topic Filters as the standard words them (section 4.7): level by level, without an index.

/// Tells whether a Topic Filter matches a Topic Name.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    // [MQTT-4.7.2-1]
    if topic.starts_with('$') && (filter.starts_with('#') || filter.starts_with('+')) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels_match(&filter, &topic)
}

fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => levels_match(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && levels_match(filter, topic),
        _ => false,
    }
}
