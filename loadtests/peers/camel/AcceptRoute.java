import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import org.apache.camel.Exchange;
import org.apache.camel.Message;
import org.apache.camel.builder.RouteBuilder;

/** HTTP to Kafka: answers 201 with a new id once all replicas have the record. It looks at nothing in the request. */
final class AcceptRoute extends RouteBuilder {
  private final String kafka;

  AcceptRoute(String brokers, String topic) {
    // The linger is the product's. With `synchronous` the worker that holds the request waits for Kafka itself;
    // otherwise a thread of a second pool would continue the route and wake it.
    kafka = "kafka:" + topic + "?brokers=" + brokers + "&requestRequiredAcks=all&enableIdempotence=true&lingerMs=2"
        + "&valueSerializer=org.apache.kafka.common.serialization.ByteArraySerializer"
        + "&synchronous=true";
  }

  @Override
  public void configure() {
    from("platform-http:/v1/events?httpMethodRestrict=POST")
        // Otherwise each header of the request would be stored with the record.
        .removeHeaders("*")
        .convertBodyTo(byte[].class)
        .to(kafka)
        .process(AcceptRoute::answer);
  }

  private static void answer(Exchange exchange) {
    Message reply = exchange.getMessage();
    reply.removeHeaders("*");
    reply.setHeader(Exchange.HTTP_RESPONSE_CODE, 201);
    reply.setHeader(Exchange.CONTENT_TYPE, "application/json");
    String body = "{\"event_id\":\"" + UUID.randomUUID() + "\"}";
    // Of a ByteBuffer Camel knows the length; a String would be sent in chunks, which the generator cannot read.
    reply.setBody(ByteBuffer.wrap(body.getBytes(StandardCharsets.US_ASCII)));
  }
}
