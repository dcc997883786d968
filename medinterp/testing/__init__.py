"""Oracles, phantoms and conformance suites, public for plugin authors."""
