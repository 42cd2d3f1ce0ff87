"""Puts tools/unmdz.py into wheels as medzip/unmdz.py: `medzip archive` lays it beside archives wherever medzip is installed."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SecondDecoder(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # an editable install finds it in the checkout
            build_data["force_include"]["tools/unmdz.py"] = "medzip/unmdz.py"
