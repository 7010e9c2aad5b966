import org.apache.camel.Exchange;
import org.apache.camel.builder.RouteBuilder;
import org.apache.camel.component.kafka.KafkaConstants;

/** Kafka to HTTP: posts each record from the start of the topic, as many at a time as the topic has partitions. */
final class DeliverRoute extends RouteBuilder {
  private static final int PARTITIONS = 12;
  private final String kafka;
  private final String target;

  DeliverRoute(String brokers, String topic, String target) {
    kafka = "kafka:" + topic + "?brokers=" + brokers + "&groupId=" + topic + "&autoOffsetReset=earliest"
        + "&consumersCount=" + PARTITIONS
        + "&valueDeserializer=org.apache.kafka.common.serialization.ByteArrayDeserializer";
    this.target = target + (target.contains("?") ? "&" : "?") + "httpMethod=POST&connectionsPerRoute=" + PARTITIONS
        + "&maxTotalConnections=" + PARTITIONS;
  }

  @Override
  public void configure() {
    from(kafka)
        // The receiver counts deliveries by this header.
        .setHeader("webhook-id", header(KafkaConstants.KEY))
        .removeHeaders("kafka.*")
        .removeHeaders("Camel*")
        .setHeader(Exchange.CONTENT_TYPE, constant("application/json"))
        .to(target);
  }
}
