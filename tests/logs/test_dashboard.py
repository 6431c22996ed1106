"""Where the dashboard cannot be made, one line says why; its parts are W&B's own objects."""

import pytest

from holdprep.config.schema import WandbLogger
from holdprep.errors import ConfigError
from holdprep.logs import dashboard

NODE = WandbLogger(project="p", entity="e", group=None, id=None, alert=False)


def test_without_wandb_as_logger_the_line_says_so():
    with pytest.raises(ConfigError, match="add logger=wandb"):
        dashboard.build(None)


def test_offline_there_is_no_server_to_keep_it():
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        dashboard.build(NODE, {"WANDB_MODE": "offline"})


def test_without_a_key_or_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch):
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda _: None), raising=False)
    with pytest.raises(ConfigError, match="no API key"):
        dashboard.build(NODE, {})
    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda _: "k"), raising=False)

    def broken(project: str, entity: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(dashboard, "definition", broken)
    with pytest.raises(ConfigError, match="cannot be reached or refuses: no route to host"):
        dashboard.build(NODE, {})


def test_there_is_a_section_for_each_stage_and_a_plot_of_weights():
    made = dashboard.definition("p", "e")
    assert [section.name for section in made.workspace.sections] == list(dashboard.summary_metrics())
    model = made.workspace._to_model()
    assert len(model.spec.section.panel_bank_config.sections) >= len(dashboard.summary_metrics())
    panels = [panel for block in made.report.blocks for panel in getattr(block, "panels", [])]
    (plot,) = [panel for panel in panels if type(panel).__name__ == "ParallelCoordinatesPlot"]
    assert [column.display_name for column in plot.columns] == [*dashboard.WEIGHTS, *dashboard.TARGETS]
