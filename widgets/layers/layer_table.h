// Per-layer table: layer | bar | kept | removed % | MiB, or layer | bar | mean rank | kept | MiB. The number is edited in place, the bar
// dragged like a slider.
#pragma once

#include "experts/selection.h"
#include "layers/layer_quantity.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <QAbstractTableModel>
#include <QTableView>

#include <memory>
#include <optional>

namespace espalier
{

class LayerModel final : public QAbstractTableModel
{
    Q_OBJECT
public:
    enum Column { Layer, Bar, Value, Second, Mib, ColumnCount };  // Second: removed share, or the experts kept beside a rank
    enum Role {
        RawRole = Qt::UserRole,
        LockedRole,
        FractionRole,
        BeforeRole,
        EditableRole,
        MinimumRole,
        MaximumRole,
        SkippedRole,
        WhyNoSkipRole
    };

    explicit LayerModel(LayerQuantity quantity, QObject* parent = nullptr) : QAbstractTableModel(parent), m_quantity(quantity) {}
    LayerQuantity quantity() const { return m_quantity; }
    const ModelShape& shape() const { return m_shape; }
    void set(const ModelShape& shape, const CompressionPlan& plan, const ExpertScores& scores,
             const std::optional<CompressionPlan>& before);
    int layerOfRow(int row) const { return row; }

    int rowCount(const QModelIndex& parent = {}) const override;
    int columnCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override;
    Qt::ItemFlags flags(const QModelIndex& index) const override;
    bool setData(const QModelIndex& index, const QVariant& value, int role) override;

signals:
    void valueEntered(int layer, int value);

private:
    QString secondText(int layer) const;

    LayerQuantity m_quantity;
    ModelShape m_shape;
    CompressionPlan m_plan;
    std::vector<double> m_removed;  // share of importance removed per layer, NaN unknown
    std::optional<CompressionPlan> m_before;
};

class LayerTable final : public QTableView
{
    Q_OBJECT
public:
    LayerTable(SelectionModel* selection, HoverModel* hover, QWidget* parent = nullptr, LayerQuantity quantity = LayerQuantity::Kept);
    ~LayerTable() override;
    LayerModel* layerModel() const;

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setScores(const espalier::ExpertScores& scores);  // for the removed share
    void setReference(const std::optional<espalier::CompressionPlan>& before);
    void setMibVisible(bool visible);
    // Why a number that was just typed was not taken, or what was taken instead: stands below its cell.
    void explain(const QString& text, bool isError);

signals:
    void gestureStarted();
    void layerMoved(int layer, int value);
    void gestureFinished();
    void gestureCancelled();
    void lockRequested(int layer);
    void skipRequested(int layer, bool skip);
    void lockedTouched(int layer);  // somebody tried to move a locked layer

protected:
    void changeEvent(QEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    void layoutColumns();  // widths from the words and numbers that stand in them
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
