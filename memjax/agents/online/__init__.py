"""Agents that learn by acting, and the parts that several of them share."""
