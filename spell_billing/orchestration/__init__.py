"""Dagster: what runs when, and nothing else.

Assets, checks, jobs, schedules, sensors, resources, partitions, and the instance they run on. Each asset
opens its month and calls one function of `usage`, `invoicing` or `ledger`. What a step does, and what is sent
to Stripe, is decided there; nothing here computes an amount.
"""
