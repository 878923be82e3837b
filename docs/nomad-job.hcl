# A backup a night, into a bucket. The image is built from the Dockerfile of this repository.
job "pgvigil-shop" {
  type        = "batch"
  datacenters = ["dc1"]

  periodic {
    crons            = ["0 2 * * *"]
    time_zone        = "Europe/Vienna"
    prohibit_overlap = true
  }

  group "backup" {
    restart {
      attempts = 2
      interval = "6h"
      delay    = "5m"
      mode     = "fail"
    }

    task "run" {
      driver = "docker"

      config {
        image           = "registry.example.com/pgvigil:latest"
        args            = ["run", "shop"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        mount {
          type   = "tmpfs"
          target = "/var/lib/pgvigil"
        }
      }

      env {
        PGVIGIL_CONFIG = "${NOMAD_TASK_DIR}/pgvigil.toml"
      }

      template {
        destination = "local/pgvigil.toml"
        data        = <<-TOML
          timezone = "Europe/Vienna"

          [servers.main]
          host     = "postgres.service.consul"
          password = { env = "POSTGRES_PASSWORD" }

          [stores.offsite]
          s3 = { bucket = "acme-backups", prefix = "postgres", region = "eu-central-1" }
          access_key_id     = { env = "AWS_ACCESS_KEY_ID" }
          secret_access_key = { env = "AWS_SECRET_ACCESS_KEY" }

          [backups.shop]
          database = "shop"
          max_age  = "26h"
        TOML
      }

      template {
        destination = "secrets/env"
        env         = true
        data        = <<-ENV
          {{ with nomadVar "nomad/jobs/pgvigil-shop" }}
          POSTGRES_PASSWORD={{ .postgres_password }}
          AWS_ACCESS_KEY_ID={{ .access_key_id }}
          AWS_SECRET_ACCESS_KEY={{ .secret_access_key }}
          {{ end }}
        ENV
      }

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
