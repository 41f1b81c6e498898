-- The role that reads the platform's tables (USAGE_DATABASE_URL), and can do nothing else.
--
-- Once, by an administrator:  CREATE ROLE billing_reader LOGIN;  \password billing_reader
-- Then this file, by the tables' owner; again after a column or table of these was added.
-- Columns that LINE_ITEMS_BY and USAGE_DEDUPE_COLUMN name are granted by hand:
--     GRANT SELECT (endpoint) ON usage_counters TO billing_reader;
-- For a standby of a primary that may be idle at the month's end:
--     GRANT pg_read_all_stats TO billing_reader;

GRANT USAGE ON SCHEMA public TO billing_reader;
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT wanted.name, string_agg(quote_ident(attribute.attname), ', ' ORDER BY attnum) AS columns
        FROM (VALUES
        ('usage_counters', '{id, user_id, cost_cents, created_at, quantity}'),
        ('billing_accounts', '{user_id, stripe_customer_id, currency, email, collection, net_days, po_number, footer, plan_id, spend_limit_cents}'),
        ('billing_plans', '{plan_id, name, included_cents, monthly_fee_cents, minimum_cents, usage_discount_percent, currency}'),
        ('plan_subscriptions', '{user_id, plan_id, starts_at, ends_at}'),
        ('billing_discounts', '{starts_at, ends_at, name, user_id, plan_id, percent, amount_cents}'),
        ('rate_cards', '{plan_id, item, model, unit, up_to, unit_price_cents, package_size, valid_from}')
        ) AS wanted (name, columns)
        JOIN pg_attribute AS attribute ON attribute.attrelid = to_regclass(wanted.name)
            AND attribute.attname = ANY (wanted.columns::text[])
            AND attribute.attnum > 0 AND NOT attribute.attisdropped
        GROUP BY wanted.name
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON %I TO billing_reader', found.columns, found.name);
    END LOOP;
END $$;
