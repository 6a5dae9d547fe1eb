"""The package feast, unmodified, with a running engine as its remote online store: asks for the features of the project in
tests/clients/feast and prints each answer as the user of Feast sees it, with the statuses. Works in the current folder, a copy
of that project. Usage: feast_reader.py URL"""

import json
import pathlib
import sys

settings = pathlib.Path("feature_store.yaml")
settings.write_text(settings.read_text().replace("URL", sys.argv[1]))

import features  # noqa: E402
from feast import FeatureStore  # noqa: E402
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus  # noqa: E402

VISITORS = [{"domain_userid": name} for name in ("ada", "bob", "nobody")]


def ask(store, names, **more):
    response = store.get_online_features(features=names, entity_rows=VISITORS, **more)
    statuses = {
        name: [FieldStatus.Name(status) for status in column.statuses]
        for name, column in zip(response.proto.metadata.feature_names.val, response.proto.results)
    }
    return {"values": response.to_dict(), "statuses": statuses}


def main():
    store = FeatureStore(".")
    store.apply([features.visitor, features.visits, features.model])
    names = [f"visits:{field.name}" for field in features.visits.features]
    answers = {
        "all": ask(store, names),
        "full_names": ask(store, names[:2], full_feature_names=True),
    }
    # A feature service is a list that Feast keeps: it is sent by its name alone, which the engine cannot know.
    try:
        answers["service"] = ask(store, store.get_feature_service("model"))
    except RuntimeError as error:
        answers["service"] = str(error)
    # As a data frame, which asks for one type per column.
    frame = store.get_online_features(features=names, entity_rows=VISITORS).to_df()
    answers["frame"] = {"columns": sorted(frame.columns), "rows": len(frame)}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
