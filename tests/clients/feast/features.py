"""What a user of Feast declares to read Keyloom's features: an entity, whose join key is that of the sessions, and a view that
names the features and their types. There is nothing to materialise: the engine keeps them fresh itself, and their ages are
those of the topology."""

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Array, Float64, Int64, Map, String
from feast.value_type import ValueType

visitor = Entity(name="visitor", join_keys=["domain_userid"], value_type=ValueType.STRING)

visits = FeatureView(
    name="visits",
    entities=[visitor],
    schema=[
        Field(name="views", dtype=Int64),
        Field(name="revenue", dtype=Float64),
        Field(name="average_price", dtype=Float64),
        Field(name="prices", dtype=Array(Float64)),
        Field(name="last_page", dtype=String),
        Field(name="recent_products", dtype=Array(String)),
        Field(name="top_products", dtype=Array(Map)),
        Field(name="events_by_type", dtype=Map),
        Field(name="coupon", dtype=String),
        Field(name="no_such_feature", dtype=String),
    ],
    # Feast wants one; nothing reads it.
    source=FileSource(name="events", path="events.parquet", timestamp_field="event_time"),
    online=True,
)

model = FeatureService(name="model", features=[visits])
