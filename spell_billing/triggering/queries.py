"""The questions to Dagster's GraphQL (1.13), each with the least that is needed of its answer."""

REPOSITORIES = """query {
  repositoriesOrError {
    __typename
    ... on RepositoryConnection { nodes { name location { name } jobs { name } } }
    ... on PythonError { message }
  }
}"""

PARTITIONS = """query($job: PipelineSelector!) {
  pipelineOrError(params: $job) {
    __typename
    ... on Pipeline { partitionKeysOrError { partitionKeys } }
    ... on Error { message }
  }
}"""

RUNS = """query($filter: RunsFilter!, $limit: Int!) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename
    ... on Runs { results {
      runId jobName status tags { key value } assetSelection { path }
    } }
    ... on Error { message }
  }
}"""

# Dagster answers field by field: the status stands first, so that an ended run's events are all there.
NEWS = """query($id: ID!, $after: String, $limit: Int!) {
  runOrError(runId: $id) {
    __typename
    ... on Run { status tags { key value } repositoryOrigin { id } }
    ... on Error { message }
  }
  logsForRun(runId: $id, afterCursor: $after, limit: $limit) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp level stepKey }
        ... on ExecutionStepFailureEvent {
          error { message cause { message } } failureMetadata { description }
        }
        ... on AssetCheckEvaluationEvent { evaluation { checkName success description } }
      }
    }
    ... on Error { message }
  }
}"""

LAUNCH = """mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""

BACKFILL = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""

BACKFILLS = """query {
  partitionBackfillsOrError(limit: 20) {
    __typename
    ... on PartitionBackfills { results { id tags { key value } } }
    ... on Error { message }
  }
}"""

BACKFILL_STATUS = """query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status error { message } }
    ... on Error { message }
  }
}"""
